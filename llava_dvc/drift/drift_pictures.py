"""The picture of a camera: people, interval widths and distance over time, and its counts."""

import io
from typing import Any

import matplotlib
import numpy as np
import pandas as pd

from llava_dvc.drift.compare import ZoneReadings, hourly_means

matplotlib.use("Agg")
from matplotlib import pyplot as plt

NOW, BEFORE, TRAINING = "#1f6f8b", "#9db8c4", "#d1495b"


def draw_zone(zone: ZoneReadings) -> bytes:
    """A PNG. The same readings give the same bytes."""
    figure, axes = plt.subplots(4, 1, figsize=(8, 9), layout="constrained")
    for one, column in zip(axes, ("people", "width", "distance"), strict=False):
        one.plot(*_line(zone.before, zone, column), color=BEFORE, linewidth=1.2, label="before")
        one.plot(*_line(zone.rows, zone, column), color=NOW, linewidth=1.4, label="this period")
        one.sharex(axes[0])
    axes[0].set(ylabel="people", title=f"{zone.name}: means of each hour (UTC)".replace("$", r"\$"))
    axes[1].set(ylabel="interval width, people")
    axes[2].set(ylabel="distance from training")
    axes[2].axhline(1, color=TRAINING, linewidth=1, label="limit of the training frames")
    if zone.is_evaluated:
        axes[0].axhspan(zone.facts.fewest, zone.facts.most, color=TRAINING, alpha=0.1,
                        label="labels of the held-out frames")  # fmt: skip
        axes[1].axhline(zone.facts.width, color=TRAINING, linewidth=1, label="held-out frames")
    _draw_counts(axes[3], zone)
    for one in axes:
        one.set_ylim(0, None)
        one.legend(loc="best", fontsize=7)
        one.grid(alpha=0.2)
    file = io.BytesIO()
    figure.savefig(file, dpi=110, metadata={"Software": None}, format="png")
    plt.close(figure)
    return file.getvalue()


def _line(rows: pd.DataFrame, zone: ZoneReadings, column: str) -> tuple[Any, Any]:
    """Times and values."""
    values = hourly_means(rows, zone.facts)[column]
    whole = values.asfreq("h") if len(values) else values  # breaks the line at missing hours
    return whole.index, whole.to_numpy()


def _draw_counts(axes: Any, zone: ZoneReadings) -> None:
    """Which share of the readings, and of the held-out labels, is in each ten."""
    tens = (zone.rows["people"] // 10 * 10).value_counts(normalize=True)
    axes.bar(tens.index.to_numpy() + 3, tens.to_numpy(), width=4, color=NOW, label="this period")
    if zone.is_evaluated:
        bins = zone.facts.bins
        shares = np.array(list(bins.values())) / sum(bins.values())
        places = np.array(list(bins)) + 7
        axes.bar(places, shares, width=4, color=TRAINING, label="labels of the held-out frames")
    axes.set(xlabel="people, in tens", ylabel="share of the readings")
