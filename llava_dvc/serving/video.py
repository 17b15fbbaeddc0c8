"""Frames of a video, one every so many seconds."""

import math
from collections.abc import Iterator
from pathlib import Path

import av
from av.container import InputContainer
from av.video.frame import VideoFrame
from PIL.Image import Image

from llava_dvc.errors import UserError

VIDEO_SUFFIXES = {".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".webm", ".wmv"}
DEFAULT_RATE = 25  # frames a second, for a stream that gives no rate
TOLERANCE = 1e-3  # seconds: a frame's time is a fraction, 24/25 for example, and not exact


def is_video(path: Path) -> bool:
    return path.suffix.lower() in VIDEO_SUFFIXES


def sample_video(path: Path, every: float) -> Iterator[tuple[float, Image]]:
    """Yields the first frame, then the first frame after each `every` seconds.

    A frame is its time in seconds since the first frame, and its image. Raises UserError when the
    file is not a video, holds no frame, or is broken. The frames before the break are yielded.
    """
    due, seconds = 0.0, None
    try:
        with av.open(str(path)) as container:
            for seconds, frame in _timed_frames(container, path):
                if seconds >= due - TOLERANCE:
                    image: Image = frame.to_image()  # type: ignore[no-untyped-call]
                    yield round(seconds, 3), image
                    due = (math.floor((seconds + TOLERANCE) / every) + 1) * every
    except (av.FFmpegError, OSError) as error:
        reason = error.strerror or type(error).__name__
        text = f"{path}: cannot be read as a video ({reason})"
        if seconds is not None:
            text += f" after {max(due - every, 0):g} s. The frames before are counted"
        raise UserError(f"{text}. Replace the file.") from None
    if seconds is None:
        raise UserError(f"{path}: holds no frame. Replace the file.")


def estimate_frames(path: Path, every: float) -> int:
    """Returns how many frames `sample_video` yields, from the file's header; 0 if unknown."""
    try:
        with av.open(str(path)) as container:
            return math.ceil((container.duration or 0) / av.time_base / every)
    except (av.FFmpegError, OSError):
        return 0


def _timed_frames(container: InputContainer, path: Path) -> Iterator[tuple[float, VideoFrame]]:
    """Yields every frame with its time in seconds since the first one."""
    if not container.streams.video:
        raise UserError(f"{path}: holds sound or text, but no video. Remove the file.")
    stream = container.streams.video[0]
    stream.thread_type = "AUTO"
    start = None
    for index, frame in enumerate(container.decode(stream)):
        time = frame.time
        if time is None:  # raw streams have no time stamps
            time = index / float(stream.average_rate or DEFAULT_RATE)
        start = time if start is None else start
        yield time - start, frame
