"""Writes pictures as an MP4 file that plays as fast as the video they are from."""

from contextlib import ExitStack, suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.video.frame import VideoFrame
from PIL.Image import Image

MILLISECONDS = Fraction(1, 1000)
LAST_SHOWN = 1.0  # seconds, if there is one picture


class WrittenClip:
    """An MP4 file in the making. `close` gives it its name: before, there is no such file."""

    def __init__(self, path: Path, size: tuple[int, int]) -> None:
        """`size` is that of the first picture. All pictures get it, less an odd row or column.

        Raises OSError when the file cannot be written, as `add` and `close` do.
        """
        self._path, self._partial = path, path.with_name(f".{path.name}.partial")
        self._size = size[0] // 2 * 2, size[1] // 2 * 2  # H.264 has no odd sizes
        self._last, self._step = 0.0, LAST_SHOWN
        with ExitStack() as undo:
            undo.callback(self.discard)
            self._file = av.open(str(self._partial), "w", format="mp4")
            stream: Any = self._file.add_stream("libx264", options={"preset": "veryfast"})
            stream.width, stream.height = self._size
            stream.pix_fmt, stream.codec_context.max_b_frames = "yuv420p", 0
            stream.time_base = stream.codec_context.time_base = MILLISECONDS
            self._stream = stream
            undo.pop_all()

    def add(self, image: Image, seconds: float) -> None:
        """Shows `image` from `seconds` on. The seconds rise."""
        width, height = (length // 2 * 2 for length in image.size)
        fits = (width, height) == self._size
        picture = image.crop((0, 0, width, height)) if fits else image.resize(self._size)
        frame: Any = VideoFrame.from_image(picture)  # type: ignore[no-untyped-call]
        frame.pts, frame.time_base = round(seconds / MILLISECONDS), MILLISECONDS
        self._file.mux(self._stream.encode(frame))
        self._step = seconds - self._last or LAST_SHOWN
        self._last = seconds

    def close(self) -> None:
        """Writes the end of the file, and gives it its name."""
        for packet in self._stream.encode():
            packet.duration = packet.duration or round(self._step / MILLISECONDS)
            self._file.mux(packet)
        self._file.close()
        self._partial.replace(self._path)

    def discard(self) -> None:
        """Removes what is written so far. Does nothing after `close`."""
        with suppress(AttributeError, OSError):  # it may not be open
            self._file.close()
        self._partial.unlink(missing_ok=True)
