"""The HTTP service: `POST /count`, health, metrics, and two pages."""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import HTMLResponse
from pydantic import BaseModel, Field

from llava_dvc.data.images import ImageError, decode_image
from llava_dvc.serving.counter import Counter
from llava_dvc.serving.request_batcher import QueueFull, RequestBatcher
from llava_dvc.serving.service_metrics import MeasureRequests, ServiceMetrics
from llava_dvc.serving.upload import (
    REQUEST_BODY,
    UPLOAD_SECONDS,
    pixels_within_limit,
    read_upload,
)

ANSWER_SECONDS = 60.0
RETRY_SECONDS = 5
DECODERS = 2  # threads

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
    400: {"model": ErrorResponse, "description": "Empty, truncated or no image"},
    408: {"model": ErrorResponse, "description": f"The upload took over {UPLOAD_SECONDS:g} s"},
    413: {"model": ErrorResponse, "description": "Too many bytes or pixels"},
    415: {"model": ErrorResponse, "description": "Neither an image nor a form with a file"},
    503: {
        "model": ErrorResponse,
        "description": "Too many frames wait; Retry-After has the seconds to wait",
    },
}


class CountService:
    """Decodes uploaded frames and counts them in batches."""

    def __init__(self, counter: Counter, metrics: ServiceMetrics) -> None:
        self._backbone = counter.recipe.backbone.name
        self._decoders = ThreadPoolExecutor(DECODERS, "decoding")
        self._batcher = RequestBatcher(counter.count, counter.batch_size, metrics.batches.observe)
        metrics.waiting.set_function(lambda: self._batcher.reserved)

    async def count_upload(self, request: Request) -> CountResponse:
        """Counts the people in one frame, sent as the body or as the `file` of a form."""
        data = await read_upload(request)
        pixels = pixels_within_limit(data)
        try:
            with self._batcher.reserve(pixels):
                loop = asyncio.get_running_loop()
                image = await loop.run_in_executor(self._decoders, decode_image, data)
                answer = asyncio.wrap_future(self._batcher.enqueue(image))
                count = await asyncio.wait_for(answer, ANSWER_SECONDS)
        except ImageError as error:
            status = 413 if error.kind == "too large" else 400
            raise HTTPException(status, f"the image {error}") from None
        except (QueueFull, TimeoutError):
            raise HTTPException(
                503,
                f"too many frames wait; retry after {RETRY_SECONDS} s",
                {"Retry-After": str(RETRY_SECONDS)},
            ) from None
        distribution = [round(share, 6) for share in count.probabilities]
        return CountResponse(**count.summary(), distribution=distribution)

    async def health(self) -> dict[str, str]:
        """Returns the backbone's name once frames can be counted."""
        return {"status": "ok", "backbone": self._backbone}

    @asynccontextmanager
    async def lifespan(self, _: FastAPI) -> AsyncIterator[None]:
        """Ends the threads at shutdown, after the queued frames are counted."""
        yield
        self._batcher.close()
        self._decoders.shutdown()


def build_app(counter: Counter) -> FastAPI:
    """Returns the service as an ASGI application. It starts threads, and ends them at shutdown."""
    metrics = ServiceMetrics()
    service = CountService(counter, metrics)
    app = FastAPI(
        title="llava-dvc",
        summary="Counts the people in a camera's frame",
        lifespan=service.lifespan,
        docs_url=None,  # FastAPI's own pages load scripts from a CDN
        redoc_url=None,
    )
    app.add_middleware(MeasureRequests, metrics=metrics)
    count = app.post(
        "/count", name="count", responses=ERRORS, openapi_extra={"requestBody": REQUEST_BODY}
    )
    count(service.count_upload)
    app.get("/health", responses={503: {"model": ErrorResponse}})(service.health)
    app.get("/metrics", response_class=Response, include_in_schema=False)(metrics.exposition)
    for path, file in PAGES.items():
        app.add_api_route(path, partial(_page_response, file), include_in_schema=False)
    return app


def _page_response(file: str) -> HTMLResponse:
    return HTMLResponse((WEB / file).read_text(encoding="utf-8"), headers=PAGE_HEADERS)
