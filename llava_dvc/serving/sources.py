"""The files that `llava-dvc predict` counts, and the frames in them."""

import glob
import math
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, groupby
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image
from tqdm import tqdm

from llava_dvc.data.data_errors import printable_name
from llava_dvc.data.images import IMAGE_FORMATS, read_image, stated_pixels
from llava_dvc.data.labels import natural_key
from llava_dvc.errors import UserError, printable_text
from llava_dvc.serving.prefetch import Reserve, map_in_order, prefetch
from llava_dvc.serving.video.file_kind import file_kind
from llava_dvc.serving.video.sampling import FINE_STEP, estimate_frames, sample_video

if TYPE_CHECKING:  # it loads PyTorch, and a worker that only reads frames needs none
    from llava_dvc.serving.counter import Zone

MAX_QUEUED_PIXELS = 64_000_000
"""Of all frames that are decoded in advance. A pixel takes four bytes, and eight while it is
decoded."""
SHOWN_PATHS = 5
"""Paths that one message names."""


@dataclass(frozen=True)
class Source:
    """A file with frames: an image or a video."""

    path: Path
    is_video: bool


@dataclass(frozen=True)
class SourceFrame:
    """An image file, or one frame of a video."""

    path: Path
    name: str
    """The path; `clip.mp4#t=12` for the frame of a video at 12 seconds."""
    image: Image.Image
    seconds: float | None = None
    """Time since the first frame of the video; None for an image file."""
    stamp: str = ""
    """The time for the name of a file: names of one video sort in order. Empty for an image."""
    zone: "Zone | None" = None
    """In which people are counted; None is the whole frame."""

    @property
    def pixels(self) -> int:
        return self.image.width * self.image.height


def print_note(text: str) -> None:
    """Prints a note above the progress bar, to standard error."""
    tqdm.write(f"note: {printable_text(text)}", file=sys.stderr)


def require_seconds(option: str, seconds: float) -> None:
    """Raises UserError if `seconds` are not finite and above 0."""
    if not (math.isfinite(seconds) and seconds > 0):
        raise UserError(f"{option}: is {seconds:g}. Set it to seconds above 0.")


def find_sources(patterns: Sequence[str]) -> list[Source]:
    """Returns the files of all `patterns`, each once: files, folders (what is in them) and globs.

    The files of a folder or a glob are in natural order. Raises UserError when a pattern has none.
    Prints which files are neither pictures nor videos.
    """
    sources: dict[Path, Source] = {}
    missing = []
    for pattern in patterns:
        paths = _matching_files(pattern)
        kinds = {path: file_kind(path) for path in paths}
        others = [path for path in paths if kinds[path] is None]
        sources |= {path: Source(path, kind == "video") for path, kind in kinds.items() if kind}
        if len(others) < len(paths):
            _note_others(others)
        elif paths or Path(pattern).is_dir():
            raise UserError(_no_frames(pattern, others))
        else:
            missing.append(pattern)
    if missing:
        total = f" ({len(missing)} in all)" if len(missing) > 1 else ""
        raise UserError(f"{', '.join(missing[:SHOWN_PATHS])}: not found{total}. Correct the path.")
    return list(sources.values())


def _matching_files(pattern: str) -> list[Path]:
    """Returns all files of a pattern. A glob that matches a folder stands for what is in it."""
    path = Path(pattern)
    if path.is_file():
        return [path]
    matches = [path] if path.is_dir() else map(Path, glob.iglob(pattern, recursive=True))
    files: dict[Path, None] = {}
    for match in matches:
        if match.is_file():
            files[match] = None
        elif match.is_dir() and "**" not in pattern:  # `**` matches the files in it too
            files |= dict.fromkeys(name for name in match.rglob("*") if name.is_file())
    return sorted(files, key=lambda name: natural_key(name.as_posix()))


def _note_others(others: Sequence[Path]) -> None:
    if others:
        files = "1 file is" if len(others) == 1 else f"{len(others)} files are"
        print_note(f"{files} neither picture nor video and not counted: {_listed(others)}")


def _no_frames(pattern: str, others: Sequence[Path]) -> str:
    """Returns why a path that exists gives no frame."""
    formats = ", ".join(IMAGE_FORMATS)
    if others == [Path(pattern)]:
        return (
            f"{pattern}: is neither a picture ({formats}) nor a video that libav reads. Convert it."
        )
    found = f"only other files ({_listed(others)})" if others else "no file"
    return f"{pattern}: contains {found}. Put pictures ({formats}) or videos into it."


def _listed(paths: Sequence[Path]) -> str:
    more = f" and {len(paths) - SHOWN_PATHS} more" if len(paths) > SHOWN_PATHS else ""
    return ", ".join(printable_name(str(path)) for path in paths[:SHOWN_PATHS]) + more


def estimate_total(sources: Sequence[Source], every: float) -> int:
    """Returns how many frames `sources` hold, as far as the headers of the videos tell."""
    return sum(estimate_frames(one.path, every) if one.is_video else 1 for one in sources)


def read_sources(
    sources: Sequence[Source], every: float, size: int, errors: list[UserError]
) -> Iterator[SourceFrame]:
    """Yields the frames of `sources` in order: images, and a video's frame every `every` seconds.

    Other threads decode up to `size` frames or MAX_QUEUED_PIXELS in advance. Appends to `errors`
    why a file is unreadable, or read only in part.
    """
    for are_videos, group in groupby(sources, lambda source: source.is_video):
        paths = [source.path for source in group]
        if are_videos:
            parts = chain.from_iterable(_read_video(path, every) for path in paths)
            frames = prefetch(parts, size, MAX_QUEUED_PIXELS, _pixels_of)
        else:
            frames = map_in_order(_read_image, paths, size, MAX_QUEUED_PIXELS, os.cpu_count())
        for frame in frames:
            if isinstance(frame, UserError):
                errors.append(frame)
            elif isinstance(frame, str):
                print_note(frame)
            else:
                yield frame
            del frame


def read_source(path: Path, every: float) -> Iterator[SourceFrame | UserError | str]:
    """Yields the frame of a picture, or those of a video; then its notes, then its error."""
    if file_kind(path) == "video":
        yield from _read_video(path, every)
    else:
        yield _read_image(path, lambda pixels: None)


def _pixels_of(part: SourceFrame | UserError | str) -> int:
    return part.pixels if isinstance(part, SourceFrame) else 0


def _read_image(path: Path, reserve: Reserve) -> SourceFrame | UserError | str:
    reserve(stated_pixels(path))
    try:
        return SourceFrame(path, str(path), read_image(path))
    except UserError as error:
        return error


def _read_video(path: Path, every: float) -> Iterator[SourceFrame | UserError | str]:
    """Yields the frames of a video, then its notes, then its error."""
    notes: list[str] = []
    length = len(str(int(estimate_frames(path, every) * every)))
    error = None
    try:
        for seconds, image in sample_video(path, every, notes):
            name = f"{path}#t={_time(seconds, every)}"
            yield SourceFrame(path, name, image, seconds, _stamp(seconds, every, length))
    except UserError as caught:
        error = caught
    yield from notes
    if error:
        yield error


def _time(seconds: float, every: float) -> str:
    """Returns `12` or `12.5`. Below steps of a second all have as many decimals, because tools that
    sort by numbers take 12.5 for less than 12.25.
    """
    text = f"{seconds:.{3 if every >= FINE_STEP else 6}f}"
    return text.rstrip("0").rstrip(".") if every >= 1 else text


def _stamp(seconds: float, every: float, length: int) -> str:
    """Returns `00012.00` for 12 seconds: digits enough for a video of `length` digits, and for
    steps of `every` seconds.
    """
    decimals = 2 if every >= 0.02 else 3 if every >= FINE_STEP else 6
    return f"{seconds:0{max(5, length) + 1 + decimals}.{decimals}f}"
