"""What all uploads together may hold. When it is too much, the upload that began first ends."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from starlette.types import Message, Receive

MAX_UPLOADS = 128
"""Uploads that are not complete."""
MAX_UPLOAD_BYTES = 200_000_000
"""Of all frames, from the first byte until the frame is decoded."""


class UploadEnded(Exception):
    """Others need the room of this upload; the client should retry later."""


class Upload:
    """The encoded frame of one request."""

    def __init__(self) -> None:
        self.content = b""
        """Empty until the upload is complete."""
        self.held = 0
        """Bytes that count towards MAX_UPLOAD_BYTES."""
        self.is_ended = False


class UploadBudget:
    """The uploads of a service. Belongs to one event loop.

    A slow or silent upload is always among the first to end. An ordinary one takes less than a
    second, so it ends only if MAX_UPLOADS others begin in that time.
    """

    def __init__(self) -> None:
        self._held = 0
        self._unfinished: dict[Upload, asyncio.Timeout] = {}  # in the order of their beginning

    @contextmanager
    def admit(self) -> Iterator[Upload]:
        """Yields an upload that holds nothing, and releases it at the end."""
        upload = Upload()
        try:
            yield upload
        finally:
            self.release(upload)

    @contextmanager
    def reading(self, upload: Upload, limit: asyncio.Timeout) -> Iterator[None]:
        """Counts `upload` as unfinished. To end it, `limit` is made to expire at once."""
        self._unfinished[upload] = limit
        try:
            if len(self._unfinished) > MAX_UPLOADS:
                self._end_oldest()
            yield
        finally:
            self._unfinished.pop(upload, None)

    def metered(self, upload: Upload, receive: Receive) -> Receive:
        """Wraps `receive`: `upload` holds what it returns. It raises UploadEnded."""

        async def receive_and_hold() -> Message:
            message = await receive()
            self._hold(upload, len(message.get("body", b"")))
            return message

        return receive_and_hold

    def release(self, upload: Upload) -> None:
        """Drops the bytes of `upload`: its frame is decoded, or nobody waits for it."""
        self._held -= upload.held
        upload.content, upload.held = b"", 0

    def _hold(self, upload: Upload, size: int) -> None:
        self._held += size
        upload.held += size
        while self._held > MAX_UPLOAD_BYTES and not upload.is_ended:
            if not self._unfinished:
                raise UploadEnded
            self._end_oldest()
        if upload.is_ended:
            raise UploadEnded

    def _end_oldest(self) -> None:
        oldest = next(iter(self._unfinished))
        limit = self._unfinished.pop(oldest)
        self.release(oldest)
        oldest.is_ended = True
        limit.reschedule(asyncio.get_running_loop().time())
