"""Frames of a video, one every so many seconds."""

import math
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import av
from av.container import InputContainer
from av.format import Flags
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from PIL.Image import Image

from llava_dvc.data.images import ImageError
from llava_dvc.errors import UserError
from llava_dvc.serving.video.clock import MAX_STRAYS, Clock
from llava_dvc.serving.video.decoder import VideoDecoder
from llava_dvc.serving.video.file_kind import open_video, video_streams
from llava_dvc.serving.video.picture import (
    PixelShape,
    TimedFrame,
    deinterlace,
    upright_image,
)

T = TypeVar("T")

TOLERANCE = 1e-3  # seconds: a frame's time is a fraction, 24/25 for example, and not exact
FINE_STEP = 0.005  # seconds: below, the times of frames have six decimals instead of three
MAX_FRAME_PIXELS = 36_000_000
"""Of a video: 8K has 33 million. A decoder holds up to 17 frames at once."""
SHOWN_SPANS = 5
HDR = {16: "PQ", 18: "HLG"}  # by the number of the transfer function in ITU-T H.273
START_TAGS = ("com.apple.quicktime.creationdate", "creation_time")
"""Of a file. The first has the camera's time zone, the second is in UTC."""
FIRST_YEAR = 1990
"""Before, a clock was never set: it begins in 1904 or 1970."""
MIN_INTACT = 1.0  # seconds between two spans of damage


class DamagedVideo(UserError):
    """Frames of a video are left out. All others are yielded."""


class VideoReader:
    """One open video. Iterating yields its frames; then `spans` and `notes` say what was found."""

    def __init__(self, path: Path, container: InputContainer) -> None:
        self._path = path
        stream = self._stream = _first_video(path, container)
        self.shape = PixelShape(stream)
        rate = stream.average_rate or stream.guessed_rate
        flags: Any = Flags.ts_discont  # typed as a set of flags, but a plain enum
        discontinuous = bool(container.format.flags & flags.value)
        self._clock = Clock(float(rate) if rate else None, discontinuous)
        self._decoder = VideoDecoder(container, stream)
        self._others = len(video_streams(container)) - 1
        self._spans: list[tuple[float, float | None]] = []
        self._frames = 0

    def __iter__(self) -> Iterator[TimedFrame]:
        """Yields the intact frames."""
        for timed in deinterlace(self._timed_frames()):
            if timed.intact:
                yield timed

    def image(self, timed: TimedFrame) -> Image:
        """Returns the picture of a frame. Raises UserError when its shape or size is absurd."""
        try:
            return upright_image(timed.frame, self.shape.aspect(timed.frame))
        except ImageError as error:
            raise UserError(f"{self._path}: its picture {error}.") from None

    def notes(self) -> list[str]:
        """Returns what a user should know, although every frame is counted."""
        notes = []
        if self._others:
            notes.append(f"{self._path}: contains {self._others + 1} videos. The first is counted.")
        if hdr := HDR.get(int(self._stream.codec_context.color_trc)):
            notes.append(
                f"{self._path}: its colours are HDR ({hdr}) and look pale here. Convert it to SDR."
            )
        if jumps := self._clock.jumps:
            notes.append(
                f"{self._path}: its clock jumps or stops at {_plain(jumps[0])} s"
                + (f" and {len(jumps) - 1} more time{'s' * (len(jumps) > 2)}" if jumps[1:] else "")
                + ". The times continue from the frame before."
            )
        return notes

    def check(self) -> None:
        """Raises UserError when no frame came, or when frames were left out."""
        errors = f"{self._decoder.errors} decoding error{'s' * (self._decoder.errors != 1)}"
        if not self._frames and self._decoder.errors:
            raise UserError(
                f"{self._path}: cannot be read as a video ({errors}). Replace the file."
            )
        if not self._frames:
            raise UserError(f"{self._path}: contains no frame. Replace the file.")
        if self._decoder.errors:
            raise DamagedVideo(
                f"{self._path}: {errors}, {self._span_text()}. The frames of this time are left "
                "out. Copy the file again from its source."
            )

    def _timed_frames(self) -> Iterator[TimedFrame]:
        """Yields all frames, and notes from when to when frames are damaged."""
        seconds, errors = 0.0, 0
        for (frame, intact, found), following in _with_following(self._decoded(), MAX_STRAYS):
            stamps = [next_frame.time for next_frame, *_ in following]
            before, seconds = seconds, self._clock.seconds(frame.time, stamps)
            self._frames += 1
            if found > errors or not intact:
                self._open_span(before)
            if intact and self._spans and self._spans[-1][1] is None:
                self._spans[-1] = self._spans[-1][0], seconds
            errors = found
            yield TimedFrame(seconds, frame, intact)
        if self._decoder.errors > errors:
            self._open_span(seconds)

    def _decoded(self) -> Iterator[tuple[VideoFrame, bool, int]]:
        """Yields each frame, if it is intact, and how many errors there were up to it."""
        for frame, intact in self._decoder:
            yield frame, intact, self._decoder.errors

    def _open_span(self, start: float) -> None:
        """Begins a span of damage, or continues the last one if that has just ended."""
        if self._spans and start - (self._spans[-1][1] or start) < MIN_INTACT:
            start = self._spans.pop()[0]
        self._spans.append((start, None))

    def _span_text(self) -> str:
        parts = [
            f"from {_plain(start)} s to " + ("the end" if end is None else f"{_plain(end)} s")
            for start, end in self._spans[:SHOWN_SPANS]
        ]
        more = len(self._spans) - SHOWN_SPANS
        return ", ".join(parts) + (f" and {more} times more" if more > 0 else "")


def sample_video(
    path: Path, every: float, notes: list[str] | None = None
) -> Iterator[tuple[float, Image]]:
    """Yields the first frame, then the first frame after each `every` seconds.

    A frame is its time in seconds since the first frame, and its image. The times rise. Appends to
    `notes` what a user should know. Raises UserError when the file is not a video or holds no
    frame, and DamagedVideo after the last frame when frames were left out.
    """
    try:
        with open_video(path) as container:
            reader = VideoReader(path, container)
            for seconds, timed in _due_frames(reader, every):
                yield seconds, reader.image(timed)
    except (av.FFmpegError, OSError) as error:
        reason = error.strerror or type(error).__name__
        raise UserError(
            f"{path}: cannot be read as a video ({reason}). Replace the file."
        ) from None
    if notes is not None:
        notes += reader.notes()
    reader.check()


def estimate_frames(path: Path, every: float) -> int:
    """Returns how many frames `sample_video` yields, from the file's header; 0 if unknown."""
    try:
        with open_video(path) as container:
            return max(0, math.ceil((container.duration or 0) / av.time_base / every))
    except (av.FFmpegError, OSError):
        return 0


def recording_start(path: Path) -> datetime | None:
    """When the first frame was recorded, as the file says, with its time zone; None if unknown."""
    try:
        with open_video(path) as container:
            said = container.metadata
    except (av.FFmpegError, OSError):
        return None
    for name in START_TAGS:
        with suppress(ValueError):
            start = datetime.fromisoformat(said.get(name, ""))
            if start.tzinfo and start.year >= FIRST_YEAR:
                return start
    return None


def _with_following(items: Iterable[T], count: int) -> Iterator[tuple[T, list[T]]]:
    """Yields each item with at most `count` items that come after it."""
    window: deque[T] = deque()
    for item in items:
        window.append(item)
        if len(window) > count:
            yield window.popleft(), list(window)
    while window:
        yield window.popleft(), list(window)


def _due_frames(reader: VideoReader, every: float) -> Iterator[tuple[float, TimedFrame]]:
    """Yields the frames that are due, each with a time that no other frame has."""
    digits = 3 if every >= FINE_STEP else 6
    tolerance = min(TOLERANCE, every / 10)
    due, last = 0.0, -1.0
    for timed in reader:
        if timed.seconds >= due - tolerance:
            seconds = round(timed.seconds, digits)
            if seconds <= last:
                seconds = round(last + 10**-digits, digits)
            yield seconds, timed
            last = seconds
            due = (math.floor((timed.seconds + tolerance) / every) + 1) * every


def _first_video(path: Path, container: InputContainer) -> VideoStream:
    streams = video_streams(container)
    if not streams:
        raise UserError(f"{path}: contains sound or text, but no video. Remove the file.")
    if streams[0].codec_context is None:
        raise UserError(f"{path}: libav has no decoder for its video. Convert it to H.264.")
    size = streams[0].width, streams[0].height
    if size[0] * size[1] > MAX_FRAME_PIXELS:
        raise UserError(
            f"{path}: its picture is {size[0]}x{size[1]}, more than {MAX_FRAME_PIXELS:,} pixels. "
            "Make it smaller, for example with `ffmpeg -i IN -vf scale=3840:-2 OUT`."
        )
    limit_pixels(streams[0])
    return streams[0]


def limit_pixels(stream: VideoStream) -> None:
    """Makes a larger frame than the header may state an error of decoding."""
    stream.codec_context.options = {"max_pixels": str(MAX_FRAME_PIXELS)}


def _plain(seconds: float) -> str:
    """Writes seconds without an exponent and with at most three decimals."""
    return f"{seconds:.3f}".rstrip("0").rstrip(".")
