"""The picture of a video frame, as a player shows it."""

import struct
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import av
from av.filter import Graph
from av.sidedata.sidedata import SideDataContainer, Type
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from PIL.Image import Image, Resampling, Transpose

from llava_dvc.data.images import ImageError, require_size

TURNS = {
    (-1, 0, 0, 1): Transpose.FLIP_LEFT_RIGHT,
    (1, 0, 0, -1): Transpose.FLIP_TOP_BOTTOM,
    (-1, 0, 0, -1): Transpose.ROTATE_180,
    (0, 1, -1, 0): Transpose.ROTATE_270,
    (0, -1, 1, 0): Transpose.ROTATE_90,
    (0, 1, 1, 0): Transpose.TRANSPOSE,
    (0, -1, -1, 0): Transpose.TRANSVERSE,
}
"""From the signs of a, b, c and d: a pixel at x, y is shown at ax + cy, bx + dy."""


MAX_ASPECT = 8  # of a pixel: the widest in use has 2


@dataclass(frozen=True)
class TimedFrame:
    """A frame with its time in seconds, and False if it is damaged."""

    seconds: float
    frame: VideoFrame
    intact: bool


class PixelShape:
    """The shape of the pixels of one stream."""

    def __init__(self, stream: VideoStream) -> None:
        self._stream = stream
        stated = stream.sample_aspect_ratio
        own = stated != stream.codec_context.sample_aspect_ratio
        self._of_container = stated if own else None
        """Of a container that has an aspect ratio of its own, which is then valid."""

    def aspect(self, frame: VideoFrame) -> Fraction:
        """Returns the width of a stored pixel divided by its height.

        Raises ImageError when it is absurd, or the frame too large with square pixels. Must be
        called while the stream is open.
        """
        coded = self._stream.codec_context.sample_aspect_ratio or self._stream.sample_aspect_ratio
        aspect = Fraction(self._of_container or coded or 1)
        if not Fraction(1, MAX_ASPECT) <= aspect <= MAX_ASPECT:
            ratio = f"{aspect.numerator}:{aspect.denominator}"
            raise ImageError(
                "broken", f"has the sample aspect ratio {ratio}; correct it in the file"
            )
        require_size(shown_size(frame, aspect))
        return aspect


def upright_image(frame: VideoFrame, aspect: Fraction) -> Image:
    """Returns the frame in RGB with square pixels, turned as its display matrix says.

    `aspect` is the width of a stored pixel divided by its height. libav converts the colours as
    the frame's colour space and range say.
    """
    image: Image = frame.to_image()  # type: ignore[no-untyped-call]
    size = shown_size(frame, aspect)
    if size != image.size:
        image = image.resize(size, Resampling.BICUBIC)
    turn = _turn(frame)
    return image if turn is None else image.transpose(turn)


def shown_size(frame: VideoFrame, aspect: Fraction) -> tuple[int, int]:
    """Returns width and height with square pixels, before the frame is turned."""
    if aspect >= 1:
        return round(frame.width * aspect), frame.height
    return frame.width, round(frame.height / aspect)


def deinterlace(frames: Iterable[TimedFrame]) -> Iterator[TimedFrame]:
    """Yields `frames`. Interlaced ones lose the comb that their two half frames show."""
    yadif: _Yadif | None = None
    for timed in frames:
        if yadif is None or not yadif.accepts(timed.frame):
            if yadif is not None:
                yield from yadif.drain()
            yadif = _Yadif(timed.frame) if timed.frame.interlaced_frame else None
        if yadif is None:
            yield timed
        else:
            yield from yadif.push(timed)
    if yadif is not None:
        yield from yadif.drain()


def _turn(frame: VideoFrame) -> Transpose | None:
    """Returns how the display matrix turns the frame, to the nearest right angle."""
    # Not frame.side_data: the two would hold each other, and the picture, until Python looks for
    # cycles. With a large model in memory that is minutes later.
    side_data: Any = SideDataContainer(frame)  # type: ignore[call-arg]
    matrix = side_data.get(Type.DISPLAYMATRIX)
    if matrix is None:
        return None
    a, b, _, c, d, *_ = struct.unpack("9i", bytes(matrix))
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return TURNS.get((_sign(a), 0, 0, _sign(d)))
    return TURNS.get((0, _sign(b), _sign(c), 0))


def _sign(number: int) -> int:
    return (number > 0) - (number < 0)


class _Yadif:
    """libav's deinterlacer. It gives each frame back after the next one, which it looks at."""

    def __init__(self, frame: VideoFrame) -> None:
        self._shape = self._shape_of(frame)
        self._waiting: deque[TimedFrame] = deque()
        self._graph = Graph()
        source = self._graph.add_buffer(
            width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1, 25)
        )
        filtering = self._graph.add("yadif", "deint=interlaced")
        self._graph.link_nodes(source, filtering, self._graph.add("buffersink")).configure()

    def accepts(self, frame: VideoFrame) -> bool:
        return self._shape == self._shape_of(frame)

    def push(self, timed: TimedFrame) -> Iterator[TimedFrame]:
        timed.frame.pts = round(timed.seconds * 25)
        self._waiting.append(timed)
        self._graph.vpush(timed.frame)
        return self._pull()

    def drain(self) -> Iterator[TimedFrame]:
        self._graph.vpush(None)
        return self._pull()

    def _pull(self) -> Iterator[TimedFrame]:
        while self._waiting:
            try:
                frame = self._graph.vpull()
            except (av.BlockingIOError, av.EOFError):
                return
            yield replace(self._waiting.popleft(), frame=frame)

    def _shape_of(self, frame: VideoFrame) -> tuple[object, ...]:
        return frame.format.name, frame.width, frame.height, frame.colorspace, frame.color_range
