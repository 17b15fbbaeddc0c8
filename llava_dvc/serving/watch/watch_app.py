"""The HTTP side of `llava-dvc watch`: health and metrics."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

from fastapi import FastAPI, Response

from llava_dvc.serving.guards.body_limit import LimitBody
from llava_dvc.serving.guards.browser_guard import GuardBrowsers
from llava_dvc.serving.guards.free_memory import return_memory_forever
from llava_dvc.serving.service_metrics import metrics_response
from llava_dvc.serving.watch.camera_watch import CameraWatch


def build_watch_app(
    watch: CameraWatch, own_hosts: Sequence[str], allowed_hosts: Sequence[str]
) -> FastAPI:
    """Returns an ASGI application that starts `watch`, and closes it at shutdown."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        trimming = asyncio.create_task(return_memory_forever())
        watch.start()
        yield
        trimming.cancel()
        with suppress(asyncio.CancelledError):
            await trimming
        await asyncio.to_thread(watch.close)

    app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(GuardBrowsers, own=own_hosts, allowed=allowed_hosts)
    app.add_middleware(LimitBody)

    async def metrics() -> Response:
        return metrics_response(watch.metrics.registry)

    async def health() -> dict[str, str]:
        return {"status": "ok"}

    for path, answer in {"/metrics": metrics, "/health": health}.items():
        app.add_api_route(path, answer, methods=["GET", "HEAD"], response_model=None)
    return app
