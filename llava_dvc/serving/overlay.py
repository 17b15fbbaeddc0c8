"""Pictures of counts: a frame with its count on it, and the count over time."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from PIL import Image, ImageDraw, ImageFont

from llava_dvc.serving.counter import Count

matplotlib.use("Agg")
from matplotlib import pyplot as plt
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


def save_annotated(image: Image.Image, count: Count, folder: Path, name: str) -> Path:
    """Writes `image` with its count in the corner into `folder`; returns the path of the JPEG.

    The file is named after `name`, the name of the frame.
    """
    annotated = image.copy()
    pen = ImageDraw.Draw(annotated, "RGBA")
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
    path = folder / _annotated_name(name)
    annotated.save(path, quality=92)
    return path


def _annotated_name(name: str) -> str:
    """Returns a file name for the frame `name`, unique across folders: `cam1_a.jpg`."""
    path, mark, seconds = name.partition("#t=")
    flat = "_".join(part for part in Path(path).parts if part.strip("./"))
    if mark:
        return f"{flat}_{float(seconds):08.2f}s.jpg"
    return flat if flat.lower().endswith((".jpg", ".jpeg")) else f"{flat}.jpg"


def save_timeline(points: Sequence[TimelinePoint], path: Path) -> None:
    """Writes a plot of the counts with their 80 % intervals as a PNG.

    The x axis is the time if all points are of one video, else the number of the frame.
    """
    times = [point.seconds for point in points if point.seconds is not None]
    one_video = len(times) == len(points) and times == sorted(times)
    x: Sequence[float] = times if one_video else range(1, len(points) + 1)
    figure, axes = plt.subplots(figsize=(9, 3.6), layout="constrained")
    _plot_counts(axes, x, points)
    axes.set(xlabel="time" if one_video else "frame", ylabel="people")
    if one_video:
        axes.xaxis.set_major_locator(MaxNLocator(9, steps=[1, 1.5, 3, 6, 10]))  # 15, 30, 60 s
        axes.xaxis.set_major_formatter(lambda seconds, _: str(timedelta(seconds=round(seconds))))
    elif len(points) > 1:
        axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    axes.yaxis.set_major_locator(MaxNLocator("auto", integer=True))
    axes.set_ylim(bottom=0)
    axes.margins(x=0.01)
    axes.grid(alpha=0.2)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)


def _plot_counts(axes: Axes, x: Sequence[float], points: Sequence[TimelinePoint]) -> None:
    low, high = [point.low for point in points], [point.high for point in points]
    counts = [point.count for point in points]
    axes.fill_between(
        x, low, high, color=COLOR, alpha=0.2, linewidth=0, label="central 80 % interval"
    )
    marker = "o" if len(points) == 1 else None
    axes.plot(x, counts, color=COLOR, linewidth=1.4, marker=marker, label="count")
    if marker:  # the band of a single point has no width
        axes.vlines(x, low, high, color=COLOR, alpha=0.4, linewidth=3)
        axes.set_xticks(x)
