"""The newest picture of a camera, for `watch --show-frames`."""

import io
from threading import Lock

from PIL import Image

WIDEST = 640
"""Pixels of a side."""


class ShownPicture:
    """The last picture that was put. It is only in memory. Safe to share between threads."""

    def __init__(self) -> None:
        self.number = 0
        """How many pictures were put."""
        self._image: Image.Image | None = None
        self._jpeg: bytes | None = None
        self._lock = Lock()

    def put(self, image: Image.Image) -> None:
        """`image` is RGB, and must not be changed afterwards."""
        with self._lock:
            self._image, self._jpeg = image, None
            self.number += 1

    def jpeg(self) -> bytes | None:
        """Returns the picture as a JPEG file that is at most WIDEST wide and high; None before
        the first. It is made when it is first asked for.
        """
        with self._lock:
            if self._jpeg is None and self._image is not None:
                self._jpeg = _small_jpeg(self._image)
            return self._jpeg


def _small_jpeg(image: Image.Image) -> bytes:
    small = image.copy()
    small.thumbnail((WIDEST, WIDEST))
    file = io.BytesIO()
    small.save(file, "JPEG", quality=80)
    return file.getvalue()
