"""The HTTP service: `POST /count`, health, metrics, and two pages."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import HTMLResponse
from pydantic import BaseModel, Field

from llava_dvc.data.images import ImageError
from llava_dvc.errors import UserError
from llava_dvc.serving.counter import Count, Counter
from llava_dvc.serving.guards.body_limit import LimitBody
from llava_dvc.serving.guards.browser_guard import LOCAL_HOSTS, GuardBrowsers
from llava_dvc.serving.guards.decoders import DecoderPool
from llava_dvc.serving.guards.free_memory import return_memory_forever
from llava_dvc.serving.guards.upload_budget import Upload, UploadBudget, UploadEnded
from llava_dvc.serving.request_batcher import QueueFull, RequestBatcher
from llava_dvc.serving.service_metrics import MeasureRequests, ServiceMetrics
from llava_dvc.serving.upload import (
    REQUEST_BODY,
    UPLOAD_SECONDS,
    read_upload,
    require_frame_size,
)

ANSWER_SECONDS = 60.0
RETRY_SECONDS = 5
DECODERS = 4
"""Processes. A frame that is slow to decode holds one of them for a second or two."""

logger = logging.getLogger("uvicorn.error")

WEB = Path(__file__).with_name("web")
PAGES = {"/": "index.html", "/docs": "docs.html"}
# The browser sends frames to this server only, and loads nothing from other hosts.
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'self' 'unsafe-inline'; img-src 'self' blob: data:"
}


class CountProbability(BaseModel):
    count: int
    probability: float


class CountResponse(BaseModel):
    """The adapter's answer for one frame."""

    count: int = Field(description="People in the frame")
    low: int = Field(description="Lower end of the central 80 % of the distribution")
    high: int = Field(description="Upper end of the central 80 % of the distribution")
    expected: float = Field(description="Mean of the distribution")
    most_likely: list[CountProbability] = Field(description="The five most likely counts")
    distribution: list[float] = Field(description="P(0), P(1), ... up to the largest count")


class ErrorResponse(BaseModel):
    detail: str = Field(description="What is wrong, and what to do about it")


ERRORS: dict[int | str, dict[str, Any]] = {
    400: {
        "model": ErrorResponse,
        "description": "Empty, cut off or not an image; a Host that is not allowed",
    },
    403: {"model": ErrorResponse, "description": "Sent by a page of another site"},
    408: {"model": ErrorResponse, "description": f"The upload took over {UPLOAD_SECONDS:g} s"},
    413: {"model": ErrorResponse, "description": "Too many bytes or pixels"},
    415: {"model": ErrorResponse, "description": "Neither an image nor a form with a file"},
    500: {"model": ErrorResponse, "description": "The model failed on this frame"},
    503: {
        "model": ErrorResponse,
        "description": "Too many frames wait; Retry-After has the seconds to wait",
    },
}


class CountService:
    """Decodes uploaded frames and counts them in batches."""

    def __init__(self, counter: Counter, metrics: ServiceMetrics) -> None:
        counter.find_zone()  # raises UserError if only named cameras have an outline
        self._backbone = counter.recipe.backbone.name
        self._uploads = UploadBudget()
        self._decoders = DecoderPool(DECODERS)
        self._threads = ThreadPoolExecutor(DECODERS, "decoding")
        self._batcher = RequestBatcher(counter.count, counter.batch_size, metrics.batches.observe)
        metrics.waiting.set_function(lambda: self._batcher.reserved)

    async def count_upload(self, request: Request) -> CountResponse:
        """Counts the people in one frame, sent as the body or as the `file` of a form."""
        try:
            with self._uploads.admit() as upload:
                await read_upload(request, self._uploads, upload)
                with self._batcher.reserve() as hold_pixels:
                    count = await asyncio.wait_for(self._count(upload, hold_pixels), ANSWER_SECONDS)
        except ImageError as error:
            status = 413 if error.kind == "too large" else 400
            raise HTTPException(status, f"the image {error}") from None
        except (QueueFull, UploadEnded, TimeoutError):
            raise HTTPException(
                503,
                f"too many frames wait; retry after {RETRY_SECONDS} s",
                {"Retry-After": str(RETRY_SECONDS)},
            ) from None
        distribution = [round(share, 6) for share in count.probabilities]
        return CountResponse(**count.summary(), distribution=distribution)

    async def _count(self, upload: Upload, hold_pixels: Callable[[int], None]) -> Count:
        def accept(pixels: int) -> None:
            require_frame_size(pixels)
            hold_pixels(pixels)

        loop = asyncio.get_running_loop()
        decode = partial(self._decoders.decode, upload.content, accept)
        image = await loop.run_in_executor(self._threads, decode)
        self._uploads.release(upload)
        try:
            return await asyncio.wrap_future(self._batcher.enqueue(image))
        except UserError as error:
            raise HTTPException(400, f"the frame cannot be counted: {error}") from None
        except Exception as error:
            logger.exception("a frame of %dx%d could not be counted", *image.size)
            kind = type(error).__name__
            raise HTTPException(
                500, f"the frame could not be counted ({kind}); the service's log has the reason"
            ) from None

    async def health(self) -> dict[str, str]:
        """Returns the backbone's name once frames can be counted."""
        return {"status": "ok", "backbone": self._backbone}

    @asynccontextmanager
    async def lifespan(self, _: FastAPI) -> AsyncIterator[None]:
        """Ends threads and processes at shutdown, after the queued frames are counted."""
        trimming = asyncio.create_task(return_memory_forever())
        yield
        trimming.cancel()
        self._batcher.close()
        self._threads.shutdown()
        self._decoders.close()


def build_app(
    counter: Counter, own_hosts: Sequence[str] = LOCAL_HOSTS, allowed_hosts: Sequence[str] = ()
) -> FastAPI:
    """Returns the service as an ASGI application.

    It starts threads and processes, and ends them at shutdown. A request must name one of the hosts
    in its Host header; pages of `allowed_hosts` may send frames too.
    """
    metrics = ServiceMetrics()
    service = CountService(counter, metrics)
    app = FastAPI(
        title="llava-dvc",
        summary="Counts the people in a camera's frame",
        lifespan=service.lifespan,
        docs_url=None,  # FastAPI's own pages load scripts from a CDN
        redoc_url=None,
        redirect_slashes=False,  # the redirect would go to the host that the client names
    )
    # The last one is the first that sees a request.
    app.add_middleware(GuardBrowsers, own=own_hosts, allowed=allowed_hosts)
    app.add_middleware(LimitBody)
    app.add_middleware(MeasureRequests, metrics=metrics)
    _add_routes(app, service, metrics)
    return app


def _add_routes(app: FastAPI, service: CountService, metrics: ServiceMetrics) -> None:
    count = app.post(
        "/count", name="count", responses=ERRORS, openapi_extra={"requestBody": REQUEST_BODY}
    )
    count(service.count_upload)
    app.get("/health", responses={503: {"model": ErrorResponse}})(service.health)
    app.head("/health", include_in_schema=False)(service.health)
    hidden = partial(app.add_api_route, methods=["GET", "HEAD"], include_in_schema=False)
    hidden("/metrics", metrics.exposition, response_class=Response)
    for path, file in PAGES.items():
        hidden(path, partial(page_response, file))


def page_response(file: str) -> HTMLResponse:
    return HTMLResponse((WEB / file).read_text(encoding="utf-8"), headers=PAGE_HEADERS)
