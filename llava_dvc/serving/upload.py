"""The body of `POST /count`: what is accepted, and how it is read within limits."""

import asyncio
from collections.abc import Sequence
from typing import Any, NamedTuple

from fastapi import HTTPException, Request
from python_multipart.multipart import parse_options_header
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from llava_dvc.serving.guards.body_limit import MAX_BODY_BYTES
from llava_dvc.serving.guards.browser_guard import shortened
from llava_dvc.serving.guards.upload_budget import Upload, UploadBudget, UploadEnded

MAX_FRAME_PIXELS = 25_000_000
"""More than a 4K camera has; 75 MB when decoded."""
UPLOAD_SECONDS = 30.0
MAX_NAME = 200
"""Characters of the name of a zone or a camera."""

Fields = Sequence[tuple[str, Any]]

NAMES = {
    "zone": "Count in this zone; without it, in the zone for which the adapter was tuned",
    "camera": "Take this camera's outline of the zone; without it, that of `*`",
}
NAME_SCHEMAS = {
    name: {"type": "string", "maxLength": MAX_NAME, "description": text}
    for name, text in NAMES.items()
}
NAME_PARAMETERS = [
    {"name": name, "in": "query", "schema": schema} for name, schema in NAME_SCHEMAS.items()
]


def describe_body(properties: dict[str, Any] | None = None) -> dict[str, Any]:
    """Returns a frame as OpenAPI describes it; a form has `properties` beside it."""
    binary = {"type": "string", "format": "binary"}
    fields = {"file": binary, **(properties or {})}
    form = {"type": "object", "required": ["file"], "properties": fields}
    return {
        "required": True,
        "description": f"A JPEG, PNG, WebP, BMP or TIFF of up to {MAX_BODY_BYTES // 10**6} MB and "
        f"{MAX_FRAME_PIXELS // 10**6} megapixels",
        "content": {"image/*": {"schema": binary}, "multipart/form-data": {"schema": form}},
    }


class AskedZone(NamedTuple):
    """The names that a request gives, as `predict --zone` and `--camera`."""

    zone: str | None
    camera: str | None


async def read_upload(request: Request, budget: UploadBudget, upload: Upload) -> AskedZone:
    """Reads the bytes of the image into `upload`. They are the body or the form's `file`.

    Returns the zone of the form or the query. Raises HTTPException with status 400, 408, 413 or
    415, and UploadEnded.
    """
    metered = Request(request.scope, budget.metered(upload, request.receive))
    try:
        async with asyncio.timeout(UPLOAD_SECONDS) as limit:
            with budget.reading(upload, limit):
                upload.content, fields = await _read_image_bytes(metered)
    except TimeoutError:
        if upload.is_ended:
            raise UploadEnded from None
        raise HTTPException(408, f"the upload took over {UPLOAD_SECONDS:g} s") from None
    except ClientDisconnect:
        raise HTTPException(400, "the connection closed before the upload was complete") from None
    fields = [*request.query_params.multi_items(), *fields]
    return AskedZone(_only_value(fields, "zone"), _only_value(fields, "camera"))


def _only_value(fields: Fields, name: str) -> str | None:
    """The value of a field; None without one. Raises HTTPException for several, or a long one."""
    values = [value for key, value in fields if key == name]
    if len(values) > 1:
        raise HTTPException(400, f"{name} is given {len(values)} times; send it once")
    if values and len(values[0]) > MAX_NAME:
        raise HTTPException(
            400, f"{name} is {shortened(values[0])}; send at most {MAX_NAME} characters"
        )
    return values[0] if values else None


class FrameFormParser(MultiPartParser):
    """Starlette's parser for a form whose `file` is an image, with or without a `filename`.

    Starlette takes a part for a text unless it has a `filename`. Some clients send only
    `filename*`, which RFC 7578 forbids, or no name at all.
    """

    spool_max_size = MAX_BODY_BYTES  # Starlette's 1 MB: a larger file is written to disk

    def on_headers_finished(self) -> None:
        _, options = parse_options_header(self._current_part.content_disposition)
        if options.get(b"name") == b"file":
            self._current_part.content_disposition = b'form-data; name="file"; filename="frame"'
        super().on_headers_finished()


async def _read_image_bytes(request: Request) -> tuple[bytes, Fields]:
    """Returns the image and the other fields of the form."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type == "multipart/form-data":
        return await _read_form_file(request)
    if media_type not in ("", "application/octet-stream") and not media_type.startswith("image/"):
        raise HTTPException(
            415,
            f"the body is {shortened(media_type)}; send an image (Content-Type: image/jpeg) or a "
            "form with the image as `file`",
        )
    return await request.body(), []


async def _read_form_file(request: Request) -> tuple[bytes, Fields]:
    parser = FrameFormParser(request.headers, request.stream(), max_files=1, max_fields=8)
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise HTTPException(400, f"the form cannot be read: {error.message}") from None
    file = form.get("file")
    if not isinstance(file, UploadFile):
        raise HTTPException(400, "the form has no file; send the image as `file`")
    content = await file.read()
    await form.close()
    return content, form.multi_items()


def require_frame_size(pixels: int) -> None:
    """Raises HTTPException with status 413 over MAX_FRAME_PIXELS."""
    if pixels > MAX_FRAME_PIXELS:
        raise HTTPException(
            413, f"the image has {pixels:,} pixels; send at most {MAX_FRAME_PIXELS:,}"
        )
