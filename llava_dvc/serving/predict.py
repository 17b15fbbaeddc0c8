"""`llava-dvc predict`: counts the people in image files and videos."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from llava_dvc.errors import UserError, printable_text
from llava_dvc.serving.adapter_source import find_adapter
from llava_dvc.serving.counter import Count, Counter, Zone
from llava_dvc.serving.overlay import AnnotatedFolder, TimelinePoint, save_timeline
from llava_dvc.serving.row_writer import RowFormat, RowWriter
from llava_dvc.serving.smoothed_counts import require_smoothing, smooth_counts
from llava_dvc.serving.sources import (
    Source,
    SourceFrame,
    estimate_total,
    find_sources,
    read_sources,
    require_seconds,
)
from llava_dvc.serving.video.sampling import DamagedVideo, recording_start

BATCHES_PER_CALL = {"cpu": 4, "cuda": 16}
"""Batches counted in one call. On a GPU each call starts worker processes that resize frames."""
MAX_PREFETCH = 64  # decoded frames
MAX_CALL_PIXELS = 64_000_000
"""Of the frames counted in one call, except the last of them. A pixel takes four bytes."""
SHOWN_ERRORS = 20


class Where(NamedTuple):
    """In which part of the frames people are counted."""

    zones: Sequence[str] = ()
    """Names of zones that the adapter knows; without one, that of its training."""
    camera: str | None = None
    """Whose outlines are taken."""


AS_TRAINED = Where()


class Outputs(NamedTuple):
    """What `count_files` writes."""

    row_format: RowFormat | None = None
    """None is a table on a terminal and CSV elsewhere."""
    annotated: Path | None = None
    """A folder for the frames with their counts drawn on them."""
    timeline: Path | None = None
    """A PNG file for a plot of the count over time."""
    start: datetime | None = None
    """When the video began, for the plot; None is what its file says."""


def count_files(
    patterns: Sequence[str],
    adapter: str | Path,
    outputs: Outputs,
    every: float = 1.0,
    smooth: bool = False,
    where: Where = AS_TRAINED,
) -> None:
    """Writes one row per frame to standard output, or one per frame and zone.

    `every` is the time in seconds between two frames of a video. `smooth` combines the counts of
    neighbouring frames. Raises UserError after the last row when a file is unreadable or read only
    in part.
    """
    _prepare_outputs(every, outputs.annotated, outputs.timeline)
    if len(where.zones) > 1 and (outputs.annotated or outputs.timeline or smooth):
        raise UserError(
            f"--zone: is given {len(where.zones)} times. Give one with --annotate, --timeline or "
            "--smooth."
        )
    sources = find_sources(patterns)
    _require_one_video(sources, outputs.start)
    folder = find_adapter(adapter)
    if smooth:
        require_smoothing(folder, adapter)
    counter = Counter.from_pretrained(folder)
    errors: list[UserError] = []
    points: list[TimelinePoint] = []
    row_format = outputs.row_format or ("table" if sys.stdout.isatty() else "csv")
    writer = RowWriter(row_format, sources, with_zone=bool(where.zones))
    counted = count_paths(counter, sources, every, errors, where)
    if smooth:
        counted = smooth_counts(counted, counter.recipe, sources, every)
    total = estimate_total(sources, every) * max(1, len(where.zones))
    with (
        tqdm(total=total, unit="frame", disable=None) as progress,
        AnnotatedFolder(outputs.annotated or Path()) as drawn,
    ):
        for frame, count in counted:
            writer.write_row(frame, count)
            if outputs.annotated:
                drawn.save(frame, count)
            points.append(TimelinePoint(frame.seconds, count.low, count.count, count.high))
            progress.update()
            del frame  # before the next frames are taken
    if outputs.timeline and points:
        _save_timeline(points, sources, outputs.timeline, outputs.start)
    _raise_unreadable(errors, len(sources))


def count_paths(
    counter: Counter,
    sources: Sequence[Source],
    every: float,
    errors: list[UserError],
    where: Where = AS_TRAINED,
) -> Iterator[tuple[SourceFrame, Count]]:
    """Yields every frame of `sources` in order, with its count in each zone.

    Appends to `errors` why a file is unreadable, or read only in part.
    """
    size = counter.batch_size * BATCHES_PER_CALL[counter.recipe.backbone.device]
    zones = [counter.find_zone(name, where.camera) for name in (where.zones or (None,))]
    frames = read_sources(sources, every, min(size, MAX_PREFETCH), errors)
    # A few pictures alone would only wait for the pictures that fill their batch.
    fill = len(sources) > counter.batch_size or any(source.is_video for source in sources)
    while chunk := _take_frames(frames, size):
        yield from _count_in_zones(counter, chunk, zones, fill)
        chunk.clear()  # before the next frames are taken


def _count_in_zones(
    counter: Counter,
    frames: Sequence[SourceFrame],
    zones: Sequence[Zone | None],
    fill: bool,
) -> Iterator[tuple[SourceFrame, Count]]:
    images = [frame.image for frame in frames]
    found = [counter.count_in(images, zone, fill) for zone in zones]
    for frame, counts in zip(frames, zip(*found, strict=True), strict=True):
        for zone, count in zip(zones, counts, strict=True):
            yield replace(frame, zone=zone), count


def _save_timeline(
    points: Sequence[TimelinePoint], sources: Sequence[Source], path: Path, start: datetime | None
) -> None:
    """Plots `points` with the name of the file, or with the number of files."""
    is_one = len(sources) == 1
    name = sources[0].path.name if is_one else f"{len(sources)} files"
    start = start or (recording_start(sources[0].path) if is_one else None)
    save_timeline(points, path, printable_text(name), start)


def _take_frames(frames: Iterator[SourceFrame], size: int) -> list[SourceFrame]:
    """The next frames: at most `size`, and none after MAX_CALL_PIXELS."""
    taken, pixels = [], 0
    for frame in frames:
        taken.append(frame)
        pixels += frame.pixels
        if len(taken) == size or pixels >= MAX_CALL_PIXELS:
            break
    return taken


def _prepare_outputs(every: float, annotated: Path | None, timeline: Path | None) -> None:
    """Checks the options and makes the folders before the model is loaded."""
    require_seconds("--every", every)
    if timeline and timeline.suffix.lower() != ".png":
        raise UserError(f"--timeline: is {timeline}. Choose a name that ends in .png.")
    for folder in filter(None, [annotated, timeline and timeline.parent]):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"{folder}: cannot be created ({error.strerror}). Choose another folder."
            ) from None


def _require_one_video(sources: Sequence[Source], start: datetime | None) -> None:
    """Raises UserError if a start is given and it is not clear of which video."""
    if start and not (len(sources) == 1 and sources[0].is_video):
        raise UserError(
            f"--start: is {start}, but is for one video alone. Name one video, or leave it out."
        )


def _raise_unreadable(errors: Sequence[UserError], files: int) -> None:
    """Raises UserError that lists `errors`, if there are any."""
    if errors:
        more = [f"... and {len(errors) - SHOWN_ERRORS} more"] if len(errors) > SHOWN_ERRORS else []
        head = f"{len(errors)} of {files} files are unreadable. All others are counted."
        if any(isinstance(error, DamagedVideo) for error in errors):
            head = (
                f"{len(errors)} of {files} files are unreadable or have gaps. All else is counted."
            )
        raise UserError("\n".join([head, *map(str, errors[:SHOWN_ERRORS]), *more]))
