"""Pictures of counts: a frame with its count on it, and the count over time."""

import errno
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import matplotlib
from matplotlib.axes import Axes
from PIL import Image, ImageDraw, ImageFont

from llava_dvc.errors import UserError
from llava_dvc.serving.counter import Count, Zone
from llava_dvc.serving.sources import SourceFrame
from llava_dvc.serving.video.written_clip import WrittenClip

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.dates import AutoDateLocator, DateFormatter
from matplotlib.ticker import MaxNLocator

COLOR = "#1f6f8b"


@dataclass(frozen=True)
class TimelinePoint:
    """The count of one frame, with its 80 % interval."""

    seconds: float | None
    """Time since the start of the video; None for an image file."""
    low: int
    count: int
    high: int


class AnnotatedFolder:
    """Writes frames with their counts drawn on them, and those of a video as an MP4 file too.

    No two of them become one file. It is a context: at its end the last MP4 file is complete.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._names: set[str] = set()
        self._videos: dict[Path, str] = {}
        self._clip: tuple[Path, Path, WrittenClip] | None = None
        """The video that is counted, its MP4 file, and the writer of that."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, _: Any, __: TracebackType | None) -> None:
        if kind is None:
            self._end_clip()
        elif self._clip:
            self._clip[2].discard()

    def save(self, frame: SourceFrame, count: Count) -> Path:
        """Writes a JPEG named after the frame, and returns its path: `cam1_a.jpg` for
        `cam1/a.jpg`.
        """
        path = self._folder / self._file_name(frame)
        drawn = draw_count(frame.image, count, frame.zone)
        with _explained(path):
            drawn.save(path, quality=92)
        if frame.seconds is not None:
            self._add_to_clip(frame.path, drawn, frame.seconds)
        return path

    def _add_to_clip(self, video: Path, drawn: Image.Image, seconds: float) -> None:
        """Adds a picture to the MP4 file of `video`. The file of the video before is ended."""
        if self._clip and self._clip[0] != video:
            self._end_clip()
        if not self._clip:
            path = self._folder / self._unused(f"{self._videos[video]}_counted", ".mp4")
            with _explained(path):
                self._clip = video, path, WrittenClip(path, drawn.size)
        _, path, clip = self._clip
        with _explained(path):
            clip.add(drawn, seconds)

    def _end_clip(self) -> None:
        if self._clip:
            _, path, clip = self._clip
            self._clip = None
            with _explained(path):
                try:
                    clip.close()
                finally:
                    clip.discard()

    def _file_name(self, frame: SourceFrame) -> str:
        flat = "_".join(part for part in frame.path.parts if part.strip("./"))
        if frame.seconds is None:
            stem = flat[:-4] if flat.lower().endswith(".jpg") else flat
            if flat.lower().endswith(".jpeg"):
                return self._unused(flat[:-5], flat[-5:])
            return self._unused(stem, flat[-4:] if stem != flat else ".jpg")
        if frame.path not in self._videos:
            self._videos[frame.path] = self._unused(flat, "_")[:-1]
        return self._unused(f"{self._videos[frame.path]}_{frame.stamp}s", ".jpg")

    def _unused(self, stem: str, end: str) -> str:
        """Returns `stem` and `end`, with a number between them if another frame has that name."""
        name, number = stem + end, 1
        while name.casefold() in self._names:  # case counts for nothing on Windows and macOS
            number += 1
            name = f"{stem}_{number}{end}"
        self._names.add(name.casefold())
        return name


def draw_count(image: Image.Image, count: Count, zone: Zone | None = None) -> Image.Image:
    """Returns a copy of `image` with its count in the corner, and with the outline of the zone."""
    annotated = image.copy()
    pen = ImageDraw.Draw(annotated, "RGBA")
    if zone:
        corners = [*zone.polygon, zone.polygon[0]]
        pen.line(corners, fill=(255, 200, 0, 255), width=max(2, annotated.height // 160))
    size = max(14, annotated.height // 16)
    font = ImageFont.load_default(size)
    text = f"{count.count} people  ({count.low} to {count.high})"
    corner = size // 2, size // 2
    left, top, right, bottom = pen.textbbox(corner, text, font)
    margin = size // 3
    pen.rounded_rectangle(
        (left - margin, top - margin, right + margin, bottom + margin), margin, fill=(0, 0, 0, 170)
    )
    pen.text(corner, text, (255, 255, 255), font)
    return annotated


def save_timeline(
    points: Sequence[TimelinePoint], path: Path, name: str = "", start: datetime | None = None
) -> None:
    """Writes a plot of the counts with their 80 % intervals, their mean and their peak as a PNG.

    If all points are of one video, the x axis is the time of day if it is known when the video
    began (`start`), else the time since then. Otherwise it is the number of the frame. `name` is
    what was counted, for the title.
    """
    times = [point.seconds for point in points if point.seconds is not None]
    one_video = len(times) == len(points) and times == sorted(times)
    start = start if one_video else None
    x: Sequence[Any] = times if one_video else range(1, len(points) + 1)
    if start:
        x = [start + timedelta(seconds=seconds) for seconds in times]
    figure, axes = plt.subplots(figsize=(9, 3.6), layout="constrained")
    _plot_counts(axes, x, points)
    _plot_summary(axes, x, points, name, _time_text if one_video else "in frame {}".format)
    axes.set(xlabel="time since the start" if one_video else "frame", ylabel="people")
    if start:
        _show_clock(axes, start, times[-1])
    elif one_video:
        axes.xaxis.set_major_locator(MaxNLocator(9, steps=[1, 1.5, 3, 6, 10]))  # 15, 30, 60 s
        axes.xaxis.set_major_formatter(lambda seconds, _: str(timedelta(seconds=round(seconds))))
    elif len(points) > 1:
        axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    axes.yaxis.set_major_locator(MaxNLocator("auto", integer=True))
    axes.set_ylim(bottom=0)
    axes.margins(x=0.01)
    axes.grid(alpha=0.2)
    figure.legend(loc="outside lower center", ncols=4, frameon=False)
    partial = path.with_name(f".{path.name}.partial")
    with _explained(path):
        try:
            figure.savefig(partial, dpi=110, metadata={"Software": None}, format="png")
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
            plt.close(figure)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Raises UserError when the block cannot write `path`."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or type(error).__name__
        remedy = "Free some space, or choose" if error.errno == errno.ENOSPC else "Choose"
        raise UserError(f"{path}: cannot be written ({reason}). {remedy} another folder.") from None


def _show_clock(axes: Axes, start: datetime, seconds: float) -> None:
    """Writes the time of day below the x axis of `seconds`, and its day and time zone."""
    text = "%H:%M:%S" if seconds < 600 else "%H:%M" if seconds < 86_400 else "%m-%d %H:%M"
    locator: Any = AutoDateLocator
    formatter: Any = DateFormatter
    axes.xaxis.set_major_locator(locator(tz=start.tzinfo, maxticks=8))
    axes.xaxis.set_major_formatter(formatter(text, tz=start.tzinfo))
    zone = f", {start.tzname()}" if start.tzinfo else ""
    axes.set_xlabel(f"time, begins {start:%Y-%m-%d}{zone}")


def _time_text(when: float | datetime) -> str:
    if isinstance(when, datetime):
        return f"at {when:%H:%M:%S}"
    return f"at {timedelta(seconds=round(when))}"


def _plot_counts(axes: Axes, x: Sequence[Any], points: Sequence[TimelinePoint]) -> None:
    low, high = [point.low for point in points], [point.high for point in points]
    counts = [point.count for point in points]
    axes.fill_between(x, low, high, color=COLOR, alpha=0.2, linewidth=0, label="80 % interval")
    marker = "o" if len(points) == 1 else None
    axes.plot(x, counts, color=COLOR, linewidth=1.4, marker=marker, label="count")
    if marker:  # the band of a single point has no width
        axes.vlines(x, low, high, color=COLOR, alpha=0.4, linewidth=3)
        axes.set_xticks(x)


def _plot_summary(
    axes: Axes,
    x: Sequence[Any],
    points: Sequence[TimelinePoint],
    name: str,
    text_of: Callable[[Any], str],
) -> None:
    """Draws the mean as a line and the peak as a mark, and writes both into the title.

    `text_of` words the place of the peak on the x axis.
    """
    counts = [point.count for point in points]
    mean, peak = sum(counts) / len(counts), max(counts)
    place = counts.index(peak)
    axes.axhline(mean, color="#333333", linewidth=1, linestyle="--", label="mean")
    axes.plot([x[place]], [peak], color="#d1495b", marker="v", linestyle="", label="peak")
    shown = f"{name[:60]}: " if name else ""
    axes.set_title(f"{shown}mean {mean:.1f}, peak {peak} {text_of(x[place])}", parse_math=False)
