"""Frames of a video, one every so many seconds."""

import math
from collections.abc import Iterator
from pathlib import Path

import av
from av.container import InputContainer
from av.video.stream import VideoStream
from PIL.Image import Image

from llava_dvc.errors import UserError

SUFFIXES = {".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".webm", ".wmv"}
ROUNDING = 1e-3  # seconds: 25 frames a second do not fall on whole seconds to the last digit


def sample(path: Path, every: float) -> Iterator[tuple[float, Image]]:
    """The first frame, and then the first one after each `every` seconds: its time from the start
    in seconds, and the picture.

    Raises UserError when the file is no video, holds no frame, or breaks off; frames before the
    break have been given by then.
    """
    due, start = 0.0, None
    try:
        with av.open(str(path)) as container:
            stream = _video(container, path)
            for index, frame in enumerate(container.decode(stream)):
                time = frame.time
                if time is None:  # raw streams have no clock
                    time = index / float(stream.average_rate or 25)
                start = time if start is None else start
                if time - start >= due - ROUNDING:
                    image: Image = frame.to_image()  # type: ignore[no-untyped-call]
                    yield round(time - start, 3), image
                    due = (math.floor((time - start + ROUNDING) / every) + 1) * every
    except (av.FFmpegError, OSError) as error:
        reason = error.strerror or type(error).__name__
        at = "" if start is None else f" after {max(due - every, 0):g} s; what is before it counts"
        raise UserError(f"{path}: cannot be read as a video ({reason}){at}") from None
    if start is None:
        raise UserError(f"{path}: holds no frame")


def expected_frames(path: Path, every: float) -> int:
    """How many frames `sample` will give, as the file says of itself; 0 if it does not."""
    try:
        with av.open(str(path)) as container:
            return math.ceil((container.duration or 0) / av.time_base / every)
    except (av.FFmpegError, OSError):
        return 0


def _video(container: InputContainer, path: Path) -> VideoStream:
    if not container.streams.video:
        raise UserError(f"{path}: holds no picture, only sound or text")
    stream = container.streams.video[0]
    stream.thread_type = "AUTO"
    return stream
