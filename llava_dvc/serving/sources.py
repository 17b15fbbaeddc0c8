"""The files that `llava-dvc predict` counts, and the frames in them."""

import glob
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, groupby
from pathlib import Path

from PIL import Image

from llava_dvc.data.images import read_image
from llava_dvc.data.labels import natural_key
from llava_dvc.errors import UserError
from llava_dvc.serving.prefetch import map_in_order, prefetch
from llava_dvc.serving.video import VIDEO_SUFFIXES, estimate_frames, is_video, sample_video

IMAGE_SUFFIXES = {".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
SHOWN_PATHS = 5
"""Paths that one error message names."""


@dataclass(frozen=True)
class SourceFrame:
    """An image file, or one frame of a video."""

    name: str
    """The path; `clip.mp4#t=12` for the frame of a video at 12 seconds."""
    image: Image.Image
    seconds: float | None
    """Time since the first frame of the video; None for an image file."""


def find_sources(patterns: Sequence[str]) -> list[Path]:
    """Returns the files of all `patterns`, each once: files, folders (their images) and globs.

    The files of a folder or a glob are in natural order. Raises UserError when a pattern has none.
    """
    paths: dict[Path, None] = {}
    missing = []
    for pattern in patterns:
        matches = _matching_files(pattern)
        paths |= dict.fromkeys(matches)
        missing += [] if matches else [pattern]
    if missing:
        total = f" ({len(missing)} in all)" if len(missing) > 1 else ""
        raise UserError(f"{', '.join(missing[:SHOWN_PATHS])}: not found{total}. Correct the path.")
    return list(paths)


def _matching_files(pattern: str) -> list[Path]:
    path = Path(pattern)
    if path.is_file():
        return [path]
    suffixes = IMAGE_SUFFIXES if path.is_dir() else IMAGE_SUFFIXES | VIDEO_SUFFIXES
    names = path.rglob("*") if path.is_dir() else map(Path, glob.iglob(pattern, recursive=True))
    files = [name for name in names if name.suffix.lower() in suffixes and name.is_file()]
    return sorted(files, key=lambda name: natural_key(name.as_posix()))


def estimate_total(paths: Sequence[Path], every: float) -> int:
    """Returns how many frames `paths` hold, as far as the headers of the videos tell."""
    return sum(estimate_frames(path, every) if is_video(path) else 1 for path in paths)


def read_sources(
    paths: Sequence[Path], every: float, size: int, errors: list[str]
) -> Iterator[SourceFrame]:
    """Yields the frames of `paths` in order: all images, and a video's frame every `every` seconds.

    Other threads decode up to `size` frames in advance. Appends to `errors` why a file is
    unreadable.
    """
    for are_videos, group in groupby(paths, is_video):
        if are_videos:
            frames = prefetch(chain.from_iterable(_read_video(path, every) for path in group), size)
        else:
            frames = map_in_order(_read_image, group, size)
        for frame in frames:
            if isinstance(frame, UserError):
                errors.append(str(frame))
            else:
                yield frame


def _read_image(path: Path) -> SourceFrame | UserError:
    try:
        return SourceFrame(str(path), read_image(path), None)
    except UserError as error:
        return error


def _read_video(path: Path, every: float) -> Iterator[SourceFrame | UserError]:
    try:
        for seconds, image in sample_video(path, every):
            yield SourceFrame(f"{path}#t={seconds:g}", image, seconds)
    except UserError as error:
        yield error
