"""Figures of an evaluation, for DVC, MLflow and TensorBoard."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from PIL.Image import Image

from llava_dvc.files import WORST

matplotlib.use("Agg")
from matplotlib import pyplot as plt

INK, MODEL, TRUTH, SMOOTHED = "#333333", "#1f6f8b", "#d1495b", "#e09f3e"
RIDGE = "#6b4c9a"
SHEET = (2, 6)  # frames on the sheet, across and down
FRAME_WIDTH = 6.5  # inches: 715 pixels, enough to count the people again
INTERVAL = "80 % interval"


def draw_all(
    predictions: pd.DataFrame,
    metrics: dict[str, Any],
    images: Sequence[Image],
    folder: Path,
    ridge: pd.Series | None = None,
) -> list[Path]:
    """Writes every figure into `folder` and returns their paths.

    `predictions` is the table of `prediction_table`, `metrics` is metrics/evaluate.json, and
    `ridge` are the answers of the baseline ridge_features, to draw beside those of the adapter.
    """
    folder.mkdir(parents=True, exist_ok=True)
    drawn = {
        "prediction_vs_truth.png": scatter(predictions, metrics),
        "count_over_time.png": timeline(predictions, metrics, ridge),
        "error_by_count.png": error_by_count(predictions, metrics, ridge),
        "confusion.png": confusion(predictions),
        "reliability.png": reliability(predictions, metrics),
        WORST: worst_frames(predictions, images),
    }
    for name, figure in drawn.items():
        figure.savefig(folder / name, dpi=110, metadata={"Software": None})
        plt.close(figure)
    return [folder / name for name in drawn]


def scatter(predictions: pd.DataFrame, metrics: dict[str, Any]) -> Any:
    """Predicted against true counts, with the 80 % interval of each answer."""
    figure, axes = plt.subplots(figsize=(6, 6), layout="constrained")
    axes.vlines(
        predictions["count"], predictions["low"], predictions["high"],
        color=MODEL, alpha=0.25, linewidth=2, label=INTERVAL,
    )  # fmt: skip
    axes.scatter(
        predictions["count"], predictions["predicted"], s=22, color=MODEL, label="one frame"
    )
    top = max(predictions["count"].max(), predictions["high"].max(), 1) * 1.05
    axes.plot([0, top], [0, top], color=INK, linewidth=1, linestyle="--", label="right answer")
    axes.set(xlim=(0, top), ylim=(0, top), xlabel="true count", ylabel="people counted")
    axes.set_title(
        f"MAE {metrics['mae']:.2f}, bias {metrics['bias']:+.2f}, {metrics['frames']} frames"
    )
    axes.set_aspect("equal")
    axes.grid(alpha=0.2)
    axes.legend(loc="upper left", frameon=False)
    return figure


def timeline(
    predictions: pd.DataFrame, metrics: dict[str, Any], ridge: pd.Series | None = None
) -> Any:
    """True, predicted and smoothed counts over the evaluation frames, and those of ridge."""
    figure, axes = plt.subplots(figsize=(9, 3.6), layout="constrained")
    order = range(len(predictions))
    axes.fill_between(
        order, predictions["low"], predictions["high"], color=MODEL, alpha=0.2, linewidth=0,
        label=INTERVAL,
    )  # fmt: skip
    every = max(1, len(predictions) // 30)  # about 30 markers on a line: colour alone is not enough
    lines: list[tuple[str, pd.Series, dict[str, Any]]] = [
        ("counted", predictions["predicted"], {"color": MODEL, "marker": "o"}),
        ("true count", predictions["count"], {"color": TRUTH, "marker": "s"}),
    ]
    if "smoothed" in predictions:
        dashed = {"color": SMOOTHED, "linewidth": 2, "linestyle": "--"}
        lines.insert(1, ("smoothed", predictions["smoothed"], dashed))
    if ridge is not None:
        lines.insert(0, ("ridge", ridge, {"color": RIDGE, "linestyle": ":"}))
    for name, counts, style in lines:
        axes.plot(order, counts, label=name, markersize=4, markevery=every, **style)
    top = max(predictions["count"].max(), predictions["high"].max(), 1)
    axes.set(xlabel="evaluation frame, in order of time", ylabel="people", ylim=(0, top * 1.05))
    axes.set_title(f"{metrics['within_3']:.0%} of frames within 3 people")
    axes.grid(alpha=0.2)
    axes.legend(loc="upper left", bbox_to_anchor=(0, -0.18), frameon=False, ncols=5)
    return figure


def error_by_count(
    predictions: pd.DataFrame, metrics: dict[str, Any], ridge: pd.Series | None = None
) -> Any:
    """MAE and bias for each range of true counts, and the MAE of ridge beside it."""
    names, found = list(metrics["bins"]), list(metrics["bins"].values())
    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    places, width = np.arange(len(names)), 0.6 if ridge is None else 0.4
    mae = [row["mae"] for row in found]
    axes.bar(places, mae, width, color=MODEL, alpha=0.6, label="MAE of the adapter")
    axes.scatter(
        places, [row["bias"] for row in found], color=TRUTH, marker="D", zorder=3,
        label="bias of the adapter",
    )  # fmt: skip
    middle = places.astype(float)
    if ridge is not None:
        errors = (ridge - predictions["count"]).abs().groupby(predictions["count"] // 10).mean()
        axes.bar(
            places + width, errors, width, color="w", edgecolor=RIDGE, hatch="//",
            label="MAE of ridge",
        )  # fmt: skip
        middle += width / 2
    axes.axhline(0, color=INK, linewidth=1)
    ticks = [f"{name}\n{row['frames']} frames" for name, row in zip(names, found, strict=True)]
    axes.set_xticks(middle, ticks)
    axes.set(xlabel="true count", ylabel="people", title="Error by true count")
    axes.grid(alpha=0.2, axis="y")
    figure.legend(loc="outside lower center", frameon=False, ncols=3)
    return figure


def confusion(predictions: pd.DataFrame) -> Any:
    """Frames by true and predicted range of ten people."""
    tens = (predictions[["count", "predicted"]] // 10).astype(int)
    ranges = range(tens.to_numpy().min(), tens.to_numpy().max() + 1)
    table = pd.crosstab(tens["count"], tens["predicted"])
    table = table.reindex(index=ranges, columns=ranges, fill_value=0)
    names = [f"{10 * ten}-{10 * ten + 9}" for ten in ranges]
    side = max(3.2, 0.65 * len(names))  # small: TensorBoard shows it 300 pixels wide
    figure, axes = plt.subplots(figsize=(side, side), layout="constrained")
    axes.imshow(table, cmap="Blues", origin="lower")
    for (row, column), frames in np.ndenumerate(table.to_numpy()):
        dark = frames > table.to_numpy().max() / 2
        axes.text(
            column, row, frames or "", ha="center", va="center", size=14,
            color="w" if dark else INK,
        )  # fmt: skip
    axes.set_xticks(range(len(names)), names)
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="people counted", ylabel="true count", title="Frames by range")
    return figure


def reliability(predictions: pd.DataFrame, metrics: dict[str, Any]) -> Any:
    """Share of labels at or below each share of the distribution. The diagonal is right."""
    figure, axes = plt.subplots(figsize=(5.5, 5.5), layout="constrained")
    axes.ecdf(predictions["pit"], color=MODEL, label="this adapter")
    axes.plot([0, 1], [0, 1], color=INK, linewidth=1, linestyle="--", label="as it should be")
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.set_xlabel("the adapter says: the count is this low with a probability of ...")
    axes.set_ylabel("share of frames whose label is that low")
    axes.set_title(f"{metrics['coverage_80']:.0%} of the labels are in the {INTERVAL}")
    axes.set_aspect("equal")
    axes.grid(alpha=0.2)
    axes.legend(loc="upper left", frameon=False)
    return figure


def worst_places(predictions: pd.DataFrame) -> list[int]:
    """The rows of the frames on the sheet: those with the largest errors, largest first."""
    errors = (predictions["predicted"] - predictions["count"]).abs()
    worst = errors.sort_values(ascending=False, kind="stable").index[: SHEET[0] * SHEET[1]]
    return [int(place) for place in worst]


def worst_frames(predictions: pd.DataFrame, images: Sequence[Image]) -> Any:
    """The frames with the largest errors, largest first."""
    worst = worst_places(predictions)
    rows = -(-len(worst) // SHEET[0])
    height = FRAME_WIDTH * images[worst[0]].height / images[worst[0]].width + 0.6
    size = (SHEET[0] * FRAME_WIDTH, rows * height)
    figure, axes = plt.subplots(rows, SHEET[0], figsize=size, layout="constrained", squeeze=False)
    for cell in axes.flat:
        cell.axis("off")
    for cell, place in zip(axes.flat, worst, strict=False):
        row = predictions.loc[place]
        cell.imshow(images[place])
        cell.set_title(
            f"{row['frame']}\n{row['count']} people, counted {row['predicted']} "
            f"({row['low']} to {row['high']})",
            fontsize=12,
        )
    return figure
