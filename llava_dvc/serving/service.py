"""`llava-dvc serve`: count over HTTP, with a page to drop frames on."""

import asyncio
import socket
import sys
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import HTMLResponse
from PIL import Image
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client import Counter as Tally
from pydantic import BaseModel, Field
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartParser
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llava_dvc.data.images import IMAGE_FORMATS, PictureError, rgb
from llava_dvc.errors import UserError
from llava_dvc.serving.counter import Counter
from llava_dvc.serving.request_batcher import Batcher, Busy

MOST_BYTES = 20_000_000
"""Of a request's body."""
MOST_DISCARDED = 10 * MOST_BYTES
"""Of a larger body, before the connection is cut."""
MOST_PIXELS = 25_000_000
"""Of a frame: more than a 4K camera's, and 75 MB when decoded."""
UPLOAD_SECONDS = 30.0
ANSWER_SECONDS = 60.0
LAST_CALL_SECONDS = 1.0
"""After SIGTERM, for requests that are on their way over connections that stand."""
CONNECTIONS = 256
DECODERS = 2  # threads

# A form's file stays in memory; Starlette would put what is over 1 MB on the disk.
MultiPartParser.spool_max_size = MOST_BYTES

WEB = Path(__file__).with_name("web")
# A frame goes to this server and nowhere else, whatever a page may be made to load.
OWN_FILES_ONLY = {
    "Content-Security-Policy": "default-src 'self' 'unsafe-inline'; img-src 'self' blob: data:"
}
BODY = {"type": "string", "format": "binary"}
REQUEST_BODY = {
    "required": True,
    "description": f"A JPEG, PNG, WebP, BMP or TIFF of up to {MOST_BYTES // 10**6} MB and "
    f"{MOST_PIXELS // 10**6} megapixels",
    "content": {
        "image/*": {"schema": BODY},
        "multipart/form-data": {
            "schema": {"type": "object", "required": ["file"], "properties": {"file": BODY}}
        },
    },
}


class Likely(BaseModel):
    count: int
    probability: float


class Answer(BaseModel):
    """What the adapter says of a frame."""

    count: int = Field(description="People in the frame")
    low: int = Field(description="Lower end of the central 80 % of the distribution")
    high: int = Field(description="Upper end of the central 80 % of the distribution")
    expected: float = Field(description="Mean of the distribution")
    most_likely: list[Likely] = Field(description="The likeliest five counts")
    distribution: list[float] = Field(description="P(0), P(1), ... to the largest count")


class Problem(BaseModel):
    detail: str = Field(description="What is wrong, and what to do about it")


PROBLEMS: dict[int | str, dict[str, Any]] = {
    400: {"model": Problem, "description": "Empty, truncated or no image"},
    408: {"model": Problem, "description": f"The upload took more than {UPLOAD_SECONDS:g} s"},
    413: {"model": Problem, "description": "Too many bytes or pixels"},
    415: {"model": Problem, "description": "Neither an image nor a form with a file"},
    503: {"model": Problem, "description": "Too many frames wait; Retry-After says when to retry"},
}


class Metrics:
    """What /metrics shows."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Tally(
            "llava_dvc_requests", "Answers to POST /count", ["status"], registry=registry
        )
        self.seconds = Histogram(
            "llava_dvc_request_seconds",
            "From a request's first byte to its answer",
            registry=registry,
            buckets=(0.1, 0.2, 0.5, 1, 2, 4, 8, 15, 30, 60),
        )
        self.batches = Histogram(
            "llava_dvc_batch_frames",
            "Frames counted in one pass",
            registry=registry,
            buckets=(1, 2, 4, 8, 16, 32),
        )
        self.waiting = Gauge(
            "llava_dvc_waiting_frames", "Frames that are not answered", registry=registry
        )
        ProcessCollector(registry=registry)


def build_app(counter: Counter) -> FastAPI:
    """The service; it starts a thread that counts and ends it on shutdown."""
    metrics = Metrics()
    batcher = Batcher(counter.count, counter.batch_size, metrics.batches.observe)
    metrics.waiting.set_function(lambda: batcher.waiting)
    decoders = ThreadPoolExecutor(DECODERS, "decoding")

    @asynccontextmanager
    async def closing(_: FastAPI) -> AsyncIterator[None]:
        yield
        batcher.close()
        decoders.shutdown()

    app = FastAPI(
        title="llava-dvc",
        summary="Counts the people in a camera's frame",
        lifespan=closing,
        docs_url=None,  # FastAPI's own page loads its scripts from a CDN
        redoc_url=None,
    )
    app.add_middleware(Gate, metrics=metrics)

    @app.post("/count", responses=PROBLEMS, openapi_extra={"requestBody": REQUEST_BODY})
    async def count(request: Request) -> Answer:
        """Count the people in one frame, sent as the body or as a form's file."""
        try:
            data = await asyncio.wait_for(_upload(request), UPLOAD_SECONDS)
        except TimeoutError:
            raise HTTPException(408, f"the upload took over {UPLOAD_SECONDS:g} s") from None
        except ClientDisconnect:
            raise HTTPException(400, "the upload broke off") from None
        return await _count(batcher, decoders, data)

    @app.get("/health", responses={503: {"model": Problem}})
    async def health() -> dict[str, str]:
        """Whether frames can be counted, and by what."""
        return {"status": "ok", "backbone": counter.recipe.backbone.name}

    @app.get("/metrics", response_class=Response, include_in_schema=False)
    async def prometheus() -> Response:
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    for path, page in {"/": "index.html", "/docs": "docs.html"}.items():
        app.add_api_route(path, partial(_page, page), include_in_schema=False)
    return app


def _page(name: str) -> HTMLResponse:
    return HTMLResponse((WEB / name).read_text(encoding="utf-8"), headers=OWN_FILES_ONLY)


async def _upload(request: Request) -> bytes:
    """The image's bytes, from the body itself or a form's `file`."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        async with request.form(max_files=1, max_fields=8) as form:
            file = form.get("file")
            if not isinstance(file, UploadFile):
                raise HTTPException(400, "the form has no file; send the image as `file`")
            return await file.read()
    if kind and not kind.startswith("image/") and kind != "application/octet-stream":
        raise HTTPException(
            415, f"the body is {kind}; send an image (Content-Type: image/jpeg) or a form's `file`"
        )
    return await request.body()


async def _count(batcher: Batcher, decoders: ThreadPoolExecutor, data: bytes) -> Answer:
    if (pixels := _pixels(data)) > MOST_PIXELS:
        raise HTTPException(413, f"the image has {pixels:,} pixels; send at most {MOST_PIXELS:,}")
    try:
        with batcher.place(pixels):
            image = await asyncio.get_running_loop().run_in_executor(decoders, rgb, data)
            answer = asyncio.wrap_future(batcher.count(image))
            found = await asyncio.wait_for(answer, ANSWER_SECONDS)
    except PictureError as error:
        status = 413 if error.kind == "too large" else 400
        raise HTTPException(status, f"the image {error}") from None
    except (Busy, TimeoutError):
        raise HTTPException(503, "too many frames wait", {"Retry-After": "5"}) from None
    distribution = [round(share, 6) for share in found.probabilities]
    return Answer(**found.summary(), distribution=distribution)


def _pixels(data: bytes) -> int:
    """As the image's header says; 0 if it has none: `rgb` says what is wrong then."""
    try:
        with Image.open(BytesIO(data), formats=IMAGE_FORMATS) as image:
            return image.width * image.height
    except Exception:  # broken bytes make Pillow raise almost anything
        return 0


class Gate:
    """Measures every request to /count and stops its body at MOST_BYTES."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != "/count":
            await self.app(scope, receive, send)
            return
        received = 0

        async def limited() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received <= MOST_BYTES:
                return message
            # Who sends and does not listen meanwhile never sees an answer that comes too early.
            while message.get("more_body") and received < MOST_DISCARDED:
                message = await receive()
                received += len(message.get("body", b""))
            raise HTTPException(413, f"the body is over {MOST_BYTES:,} bytes; send less")

        async def measured(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.metrics.requests.labels(message["status"]).inc()
            await send(message)

        with self.metrics.seconds.time():
            await self.app(scope, limited, measured)


class Server(uvicorn.Server):
    """Uvicorn, which says when it listens, and on SIGTERM also answers what was sent before it
    could say that it ends.
    """

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listening in sockets or []:
            host, port = listening.getsockname()[:2]
            name = f"[{host}]" if ":" in host else host
            sys.stdout.write(f"counting on http://{name}:{port}\n")
        sys.stdout.flush()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no new connection, give those that stand a moment for a last request, and answer
        everything.
        """
        for server in self.servers:
            server.close()
        self.server_state.default_headers.append((b"connection", b"close"))
        ends = time.monotonic() + LAST_CALL_SECONDS
        while self.server_state.connections and time.monotonic() < ends:
            await asyncio.sleep(0.05)
        await super().shutdown(sockets)


def serve(adapter: str | Path, host: str, port: int) -> None:
    """Load `adapter` and serve it until SIGTERM or Ctrl-C."""
    listening = _bind(host, port)  # first: it fails at once, the model takes a while
    counter = Counter.from_pretrained(adapter)
    counter.count([Image.new("RGB", (640, 480))])  # the first pass is slow
    config = uvicorn.Config(
        build_app(counter),
        log_level="warning",
        access_log=False,
        limit_concurrency=CONNECTIONS,
        server_header=False,
    )
    Server(config).run(sockets=[listening])


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except (OSError, OverflowError) as error:
        listening.close()
        raise UserError(
            f"{host}:{port}: cannot listen there ({error}); choose another --host or --port"
        ) from None
    return listening
