"""Counts drawn for people: on a frame, and over time."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import matplotlib
from PIL import Image, ImageDraw, ImageFont

from llava_dvc.serving.counter import Count

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.ticker import MaxNLocator

MODEL = "#1f6f8b"


@dataclass(frozen=True)
class Point:
    """One frame's count, for `timeline`."""

    seconds: float | None
    low: int
    count: int
    high: int


def annotate(image: Image.Image, count: Count, folder: Path, name: str) -> Path:
    """Write `image` with its count in a corner into `folder`, as a JPEG named after `name`."""
    drawn = image.copy()
    pen = ImageDraw.Draw(drawn, "RGBA")
    size = max(14, drawn.height // 16)
    font = ImageFont.load_default(size)
    text = f"{count.count} people  ({count.low} to {count.high})"
    place = size // 2, size // 2
    left, top, right, bottom = pen.textbbox(place, text, font)
    edge = size // 3
    pen.rounded_rectangle(
        (left - edge, top - edge, right + edge, bottom + edge), edge, fill=(0, 0, 0, 170)
    )
    pen.text(place, text, (255, 255, 255), font)
    path = folder / _file_name(name)
    drawn.save(path, quality=92)
    return path


def timeline(points: Sequence[Point], path: Path) -> None:
    """Draw the counts with their 80 % bands over a video's time; over the frames' order where
    they are no video's, or several videos'.
    """
    times = [point.seconds for point in points if point.seconds is not None]
    one_video = len(times) == len(points) and times == sorted(times)
    across = times if one_video else list(range(1, len(points) + 1))
    figure, axes = plt.subplots(figsize=(9, 3.6), layout="constrained")
    low, high = [point.low for point in points], [point.high for point in points]
    axes.fill_between(
        across, low, high, color=MODEL, alpha=0.2, linewidth=0, label="central 80 % of the answer"
    )
    counts, mark = [point.count for point in points], "o" if len(points) == 1 else None
    axes.plot(across, counts, color=MODEL, linewidth=1.4, marker=mark, label="counted")
    if mark:  # a band of one point has no width
        axes.vlines(across, low, high, color=MODEL, alpha=0.4, linewidth=3)
        axes.set_xticks(across)
    axes.set(xlabel="time" if one_video else "frame", ylabel="people")
    if one_video:
        axes.xaxis.set_major_locator(MaxNLocator(9, steps=[1, 1.5, 3, 6, 10]))  # 15, 30, 60 s
        axes.xaxis.set_major_formatter(lambda seconds, _: str(timedelta(seconds=round(seconds))))
    elif not mark:
        axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    axes.yaxis.set_major_locator(MaxNLocator("auto", integer=True))
    axes.set_ylim(bottom=0)
    axes.margins(x=0.01)
    axes.grid(alpha=0.2)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)


def _file_name(name: str) -> str:
    """`cam1/a.jpg` as `cam1_a.jpg`, so that frames of several folders do not overwrite one
    another.
    """
    path, mark, at = name.partition("#t=")
    flat = "_".join(part for part in Path(path).parts if part.strip("./"))
    if mark:
        return f"{flat}_{float(at):08.2f}s.jpg"
    return flat if flat.lower().endswith((".jpg", ".jpeg")) else f"{flat}.jpg"
