"""The HTTP service: `POST /count`, corrections, health, metrics, and two pages."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Any

from fastapi import FastAPI, HTTPException, Request, Response
from PIL.Image import Image
from pydantic import BaseModel, Field

from llava_dvc.data.images import ImageError
from llava_dvc.data.labels import MAX_COUNT
from llava_dvc.errors import UserError, printable_text
from llava_dvc.serving.counter import Count, Counter, Zone
from llava_dvc.serving.guards.body_limit import LimitBody
from llava_dvc.serving.guards.browser_guard import LOCAL_HOSTS, GuardBrowsers, shortened
from llava_dvc.serving.guards.decoders import DecoderPool
from llava_dvc.serving.guards.free_memory import return_memory_forever
from llava_dvc.serving.guards.upload_budget import Upload, UploadBudget, UploadEnded
from llava_dvc.serving.page.corrections import CorrectionFolder, CorrectionsFull
from llava_dvc.serving.page.served_model import ServedModel
from llava_dvc.serving.page.web_files import WebFiles, page_response
from llava_dvc.serving.request_batcher import QueueFull, RequestBatcher
from llava_dvc.serving.service_metrics import MeasureRequests, ServiceMetrics
from llava_dvc.serving.upload import (
    NAME_PARAMETERS,
    NAME_SCHEMAS,
    UPLOAD_SECONDS,
    AskedZone,
    describe_body,
    read_upload,
    require_frame_size,
)

ANSWER_SECONDS = 60.0
RETRY_SECONDS = 5
DECODERS = 4
"""Processes. A frame that is slow to decode holds one of them for a second or two."""

logger = logging.getLogger("uvicorn.error")

PAGES = {"/": "index.html", "/docs": "docs.html"}


class CountProbability(BaseModel):
    count: int
    probability: float


class CountResponse(BaseModel):
    """The adapter's answer for one frame."""

    count: int = Field(description="People in the frame")
    low: int = Field(description="Lower end of the 80 % interval")
    high: int = Field(description="Upper end of the 80 % interval")
    expected: float = Field(description="Mean of the distribution")
    most_likely: list[CountProbability] = Field(description="The five most likely counts")
    distribution: list[float] = Field(description="P(0), P(1), ... up to the largest count")
    zone: str | None = Field(description="In which they were counted; null is the whole frame")
    outline: list[tuple[float, float]] | None = Field(
        description="The corners of the zone in pixels of the upright frame; null without a zone"
    )
    unlike_training: bool | None = Field(
        description="Whether the frame is unlike those that the adapter was tuned on, so that the "
        "count may be wrong; null if the adapter does not know how they look"
    )


class CorrectionResponse(BaseModel):
    """A frame is kept with its right count."""

    kept: int = Field(description="Corrections in the folder")


class ErrorResponse(BaseModel):
    detail: str = Field(description="What is wrong, and what to do about it")


ERRORS: dict[int | str, dict[str, Any]] = {
    400: {
        "model": ErrorResponse,
        "description": "Empty, cut off or not an image; an unknown zone; a Host that is not "
        "allowed",
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
CORRECTION_ERRORS: dict[int | str, dict[str, Any]] = {
    **{status: error for status, error in ERRORS.items() if status != 500},
    507: {"model": ErrorResponse, "description": "The folder of corrections is full"},
}

COUNT_PARAMETER = {
    "name": "count",
    "in": "query",
    "required": True,
    "schema": {"type": "integer", "minimum": 0, "maximum": MAX_COUNT},
}


class CountService:
    """Decodes uploaded frames and counts them in batches."""

    def __init__(self, counter: Counter, metrics: ServiceMetrics) -> None:
        self._counter = counter
        self._backbone = counter.recipe.backbone.name
        self._uploads = UploadBudget()
        self._decoders = DecoderPool(DECODERS)
        self._threads = ThreadPoolExecutor(DECODERS, "decoding")
        self._batcher = RequestBatcher(
            counter.count_encoded, counter.batch_size, metrics.batches.observe
        )
        metrics.waiting.set_function(lambda: self._batcher.reserved)

    async def count_upload(self, request: Request) -> CountResponse:
        """Counts the people in one frame, sent as the body or as the `file` of a form."""
        with _answers_with_errors(), self._uploads.admit() as upload:
            asked = await read_upload(request, self._uploads, upload)
            zone = self._find_zone(asked)
            with self._batcher.reserve() as hold_pixels:
                counting = self._count(upload, asked.camera, zone, hold_pixels)
                count, distance = await asyncio.wait_for(counting, ANSWER_SECONDS)
        return CountResponse(
            **count.summary(),
            distribution=[round(share, 6) for share in count.probabilities],
            zone=zone.name if zone else None,
            outline=list(zone.polygon) if zone else None,
            unlike_training=None if distance is None else distance > 1,
        )

    async def keep_correction(
        self, folder: CorrectionFolder, request: Request
    ) -> CorrectionResponse:
        """Keeps a frame, sent as for /count, with the right `count` of people in it."""
        number = _whole_number(request.query_params.get("count", ""))
        with _answers_with_errors(), self._uploads.admit() as upload:
            await read_upload(request, self._uploads, upload)
            with self._batcher.reserve() as hold_pixels:
                await asyncio.wait_for(self._decode(upload, hold_pixels), ANSWER_SECONDS)
            loop = asyncio.get_running_loop()
            keep = partial(folder.keep, upload.content, number)
            return CorrectionResponse(kept=await loop.run_in_executor(self._threads, keep))

    def _find_zone(self, asked: AskedZone) -> Zone | None:
        try:
            return self._counter.find_zone(asked.zone, asked.camera)
        except UserError as error:
            raise HTTPException(400, printable_text(" ".join(str(error).split()))) from None

    async def _decode(self, upload: Upload, hold_pixels: Callable[[int], None]) -> Image:
        def accept(pixels: int) -> None:
            require_frame_size(pixels)
            hold_pixels(pixels)

        loop = asyncio.get_running_loop()
        decode = partial(self._decoders.decode, upload.content, accept)
        return await loop.run_in_executor(self._threads, decode)

    async def _count(
        self,
        upload: Upload,
        camera: str | None,
        zone: Zone | None,
        hold_pixels: Callable[[int], None],
    ) -> tuple[Count, float | None]:
        """Returns the count in `zone`, and how far the frame is from those of the training."""
        image = await self._decode(upload, hold_pixels)
        self._uploads.release(upload)
        loop = asyncio.get_running_loop()
        try:
            measure = partial(self._counter.distance, image, camera)
            distance = loop.run_in_executor(self._threads, measure)  # while the frame is counted
            encode = partial(self._counter.encode, image, zone)
            frame = await loop.run_in_executor(self._threads, encode)
            count = await asyncio.wrap_future(self._batcher.enqueue(frame))
            return count, await distance
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


@contextmanager
def _answers_with_errors() -> Iterator[None]:
    """Turns what may go wrong with an upload into an HTTPException."""
    try:
        yield
    except ImageError as error:
        status = 413 if error.kind == "too large" else 400
        raise HTTPException(status, f"the image {error}") from None
    except CorrectionsFull as error:
        logger.error("a correction could not be kept: %s", error)
        raise HTTPException(
            507, "the correction could not be kept: its folder or disk is full"
        ) from None
    except (QueueFull, UploadEnded, TimeoutError):
        raise HTTPException(
            503,
            f"too many frames wait; retry after {RETRY_SECONDS} s",
            {"Retry-After": str(RETRY_SECONDS)},
        ) from None


def _whole_number(text: str) -> int:
    """The count of a correction; raises HTTPException with status 400."""
    if text.isascii() and text.isdecimal() and len(text) <= 4 and int(text) <= MAX_COUNT:
        return int(text)
    raise HTTPException(
        400, f"count is {shortened(text)!r}; send a whole number from 0 to {MAX_COUNT}"
    )


def build_app(
    counter: Counter,
    own_hosts: Sequence[str] = LOCAL_HOSTS,
    allowed_hosts: Sequence[str] = (),
    model: ServedModel | None = None,
    corrections: CorrectionFolder | None = None,
) -> FastAPI:
    """Returns the service as an ASGI application.

    It starts threads and processes, and ends them at shutdown. A request must name one of the hosts
    in its Host header; pages of `allowed_hosts` may send frames too. `model` is what the page says
    of the adapter. Without `corrections` nothing of a frame is kept.
    """
    model = model or ServedModel.from_recipe("", counter.recipe)
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
    _add_pages(app, model.model_copy(update={"keeps_corrections": corrections is not None}))
    if corrections:
        _add_corrections(app, service, corrections)
    return app


def _add_routes(app: FastAPI, service: CountService, metrics: ServiceMetrics) -> None:
    extra = {"requestBody": describe_body(NAME_SCHEMAS), "parameters": NAME_PARAMETERS}
    app.post("/count", name="count", responses=ERRORS, openapi_extra=extra)(service.count_upload)
    app.get("/health", responses={503: {"model": ErrorResponse}})(service.health)
    app.head("/health", include_in_schema=False)(service.health)
    app.add_api_route(
        "/metrics",
        metrics.exposition,
        methods=["GET", "HEAD"],
        include_in_schema=False,
        response_class=Response,
    )


def _add_pages(app: FastAPI, model: ServedModel) -> None:
    async def describe() -> ServedModel:
        """Names the adapter, and says how well it counted in its evaluation."""
        return model

    app.get("/model")(describe)
    app.head("/model", include_in_schema=False)(describe)
    for path, file in PAGES.items():
        page = partial(page_response, file)
        app.add_api_route(path, page, methods=["GET", "HEAD"], include_in_schema=False)
    app.mount("/web", WebFiles())


def _add_corrections(app: FastAPI, service: CountService, folder: CorrectionFolder) -> None:
    async def keep(request: Request) -> CorrectionResponse:
        """Keeps a frame, sent as for /count, with the right `count` of people in it."""
        return await service.keep_correction(folder, request)

    app.post(
        "/corrections",
        responses=CORRECTION_ERRORS,
        openapi_extra={"requestBody": describe_body(), "parameters": [COUNT_PARAMETER]},
    )(keep)
