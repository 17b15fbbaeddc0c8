"""The body of `POST /count`: what is accepted, and how it is read within limits."""

import asyncio
from io import BytesIO

from fastapi import HTTPException, Request
from PIL import Image
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartParser
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive

from llava_dvc.data.images import IMAGE_FORMATS

MAX_BODY_BYTES = 20_000_000
MAX_DRAINED_BYTES = 10 * MAX_BODY_BYTES
"""Read from a larger body before the connection is closed."""
MAX_FRAME_PIXELS = 25_000_000
"""More than a 4K camera has; 75 MB when decoded."""
UPLOAD_SECONDS = 30.0

# Starlette writes an uploaded file over 1 MB to disk. A frame must stay in memory.
MultiPartParser.spool_max_size = MAX_BODY_BYTES

BINARY = {"type": "string", "format": "binary"}
REQUEST_BODY = {
    "required": True,
    "description": f"A JPEG, PNG, WebP, BMP or TIFF of up to {MAX_BODY_BYTES // 10**6} MB and "
    f"{MAX_FRAME_PIXELS // 10**6} megapixels",
    "content": {
        "image/*": {"schema": BINARY},
        "multipart/form-data": {
            "schema": {"type": "object", "required": ["file"], "properties": {"file": BINARY}}
        },
    },
}
"""As OpenAPI describes it."""


async def read_upload(request: Request) -> bytes:
    """Returns the bytes of the image, which is the body or the form's `file`.

    Raises HTTPException with status 400, 408, 413 or 415.
    """
    limited = Request(request.scope, _limit_body(request.receive))
    try:
        return await asyncio.wait_for(_read_image_bytes(limited), UPLOAD_SECONDS)
    except TimeoutError:
        raise HTTPException(408, f"the upload took over {UPLOAD_SECONDS:g} s") from None
    except ClientDisconnect:
        raise HTTPException(400, "the connection closed before the upload was complete") from None


def _limit_body(receive: Receive) -> Receive:
    """Wraps `receive`: it raises a 413 when the body is over MAX_BODY_BYTES."""
    received = 0

    async def receive_within_limit() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received <= MAX_BODY_BYTES:
            return message
        # A client that is still uploading does not read a response; drain the body first.
        while message.get("more_body") and received < MAX_DRAINED_BYTES:
            message = await receive()
            received += len(message.get("body", b""))
        raise HTTPException(413, f"the body is over {MAX_BODY_BYTES:,} bytes; send less")

    return receive_within_limit


async def _read_image_bytes(request: Request) -> bytes:
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type == "multipart/form-data":
        async with request.form(max_files=1, max_fields=8) as form:
            file = form.get("file")
            if not isinstance(file, UploadFile):
                raise HTTPException(400, "the form has no file; send the image as `file`")
            return await file.read()
    if media_type not in ("", "application/octet-stream") and not media_type.startswith("image/"):
        raise HTTPException(
            415,
            f"the body is {media_type}; send an image (Content-Type: image/jpeg) or a form with "
            "the image as `file`",
        )
    return await request.body()


def pixels_within_limit(data: bytes) -> int:
    """Returns the number of pixels that the image's header states; 0 if the header is unreadable.

    Raises HTTPException with status 413 over MAX_FRAME_PIXELS. Decodes nothing.
    """
    try:
        with Image.open(BytesIO(data), formats=IMAGE_FORMATS) as image:
            pixels = image.width * image.height
    except Exception:  # Pillow raises many types on broken bytes; decoding reports the reason
        return 0
    if pixels > MAX_FRAME_PIXELS:
        raise HTTPException(
            413, f"the image has {pixels:,} pixels; send at most {MAX_FRAME_PIXELS:,}"
        )
    return pixels
