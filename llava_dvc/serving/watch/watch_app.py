"""The HTTP side of `llava-dvc watch`: a page, its events, health and metrics."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from fastapi import FastAPI, Response
from fastapi.responses import HTMLResponse, StreamingResponse

from llava_dvc.serving.guards.body_limit import LimitBody
from llava_dvc.serving.guards.browser_guard import GuardBrowsers
from llava_dvc.serving.guards.free_memory import return_memory_forever
from llava_dvc.serving.page.web_files import WebFiles, page_response
from llava_dvc.serving.service_metrics import metrics_response
from llava_dvc.serving.watch.camera_watch import CameraWatch

EVENT_SECONDS = 1.0
PICTURE_HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",  # no page of another site may show it
    "X-Content-Type-Options": "nosniff",
}


class WatchPages:
    """Answers with what `watch` knows at the moment. No answer holds an address."""

    def __init__(self, watch: CameraWatch) -> None:
        self._watch = watch

    async def page(self) -> HTMLResponse:
        return page_response("watch.html")

    async def events(self) -> StreamingResponse:
        """Sends the values of all cameras every EVENT_SECONDS.

        The connection ends after some time, as all do. A browser then connects again.
        """
        return StreamingResponse(
            self._events(), media_type="text/event-stream", headers={"Cache-Control": "no-store"}
        )

    async def metrics(self) -> Response:
        return metrics_response(self._watch.metrics.registry)

    async def frame(self, camera: str) -> Response:
        """Answers with the newest picture of a camera. No browser or proxy may keep it."""
        jpeg = await asyncio.to_thread(self._watch.picture, camera)
        if jpeg is None:
            return Response(status_code=404, headers=PICTURE_HEADERS)
        return Response(jpeg, media_type="image/jpeg", headers=PICTURE_HEADERS)

    async def health(self) -> dict[str, str]:
        return {"status": "ok"}

    async def _events(self) -> AsyncIterator[str]:
        while True:
            yield f"data: {json.dumps(self._watch.page_rows())}\n\n"
            await asyncio.sleep(EVENT_SECONDS)

    @asynccontextmanager
    async def lifespan(self, _: FastAPI) -> AsyncIterator[None]:
        """Starts the cameras, and ends them at shutdown."""
        trimming = asyncio.create_task(return_memory_forever())
        self._watch.start()
        yield
        trimming.cancel()
        await asyncio.to_thread(self._watch.close)


def build_watch_app(
    watch: CameraWatch,
    own_hosts: Sequence[str],
    allowed_hosts: Sequence[str],
    show_frames: bool = False,
) -> FastAPI:
    """Returns an ASGI application that starts `watch`, and closes it at shutdown.

    Without `show_frames` no path answers with a picture.
    """
    pages = WatchPages(watch)
    app = FastAPI(lifespan=pages.lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(GuardBrowsers, own=own_hosts, allowed=allowed_hosts)
    app.add_middleware(LimitBody)
    answers = {"/": pages.page, "/metrics": pages.metrics, "/health": pages.health}
    for path, answer in answers.items():
        app.add_api_route(path, answer, methods=["GET", "HEAD"], response_model=None)
    app.add_api_route("/events", pages.events, response_model=None)
    if show_frames:
        app.add_api_route("/frames/{camera}", pages.frame, response_model=None)
    app.mount("/web", WebFiles())
    return app
