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
SHEET = (4, 3)  # frames on the sheet, across and down


def draw_all(
    predictions: pd.DataFrame, metrics: dict[str, Any], images: Sequence[Image], folder: Path
) -> list[Path]:
    """Writes every figure into `folder` and returns their paths.

    `predictions` is the table of `prediction_table`, `metrics` is metrics/evaluate.json.
    """
    folder.mkdir(parents=True, exist_ok=True)
    drawn = {
        "prediction_vs_truth.png": scatter(predictions, metrics),
        "count_over_time.png": timeline(predictions, metrics),
        "error_by_count.png": error_by_count(metrics),
        "confusion.png": confusion(predictions),
        "reliability.png": reliability(predictions, metrics),
        WORST: worst_frames(predictions, images),
    }
    for name, figure in drawn.items():
        figure.savefig(folder / name, dpi=110, metadata={"Software": None})
        plt.close(figure)
    return [folder / name for name in drawn]


def scatter(predictions: pd.DataFrame, metrics: dict[str, Any]) -> Any:
    """Predicted against true counts, with the central 80 % interval of each answer."""
    figure, axes = plt.subplots(figsize=(6, 6), layout="constrained")
    axes.vlines(
        predictions["count"], predictions["low"], predictions["high"],
        color=MODEL, alpha=0.25, linewidth=2, label="central 80 % of the answer",
    )  # fmt: skip
    axes.scatter(
        predictions["count"], predictions["predicted"], s=22, color=MODEL, label="one frame"
    )
    top = max(predictions["count"].max(), predictions["high"].max(), 1) * 1.05
    axes.plot([0, top], [0, top], color=INK, linewidth=1, linestyle="--", label="right answer")
    axes.set(xlim=(0, top), ylim=(0, top), xlabel="people in the frame", ylabel="people counted")
    axes.set_title(
        f"MAE {metrics['mae']:.2f}, bias {metrics['bias']:+.2f}, {metrics['frames']} frames"
    )
    axes.set_aspect("equal")
    axes.grid(alpha=0.2)
    axes.legend(loc="upper left", frameon=False)
    return figure


def timeline(predictions: pd.DataFrame, metrics: dict[str, Any]) -> Any:
    """True, predicted and smoothed counts over the evaluation frames."""
    figure, axes = plt.subplots(figsize=(9, 3.6), layout="constrained")
    order = range(len(predictions))
    axes.fill_between(
        order, predictions["low"], predictions["high"], color=MODEL, alpha=0.2, linewidth=0,
        label="central 80 % of the answer",
    )  # fmt: skip
    axes.plot(order, predictions["predicted"], color=MODEL, label="counted")
    if "smoothed" in predictions:
        axes.plot(order, predictions["smoothed"], color=SMOOTHED, linewidth=2, label="smoothed")
    axes.plot(order, predictions["count"], color=TRUTH, linewidth=1.2, label="people in the frame")
    top = max(predictions["count"].max(), predictions["high"].max(), 1)
    axes.set(xlabel="evaluation frame, in order of time", ylabel="people", ylim=(0, top * 1.25))
    axes.set_title(f"{metrics['within_3']:.0%} of frames within 3 people")
    axes.grid(alpha=0.2)
    axes.legend(loc="upper left", frameon=False, ncols=4)
    return figure


def error_by_count(metrics: dict[str, Any]) -> Any:
    """MAE and bias for each range of true counts."""
    names, found = list(metrics["bins"]), list(metrics["bins"].values())
    figure, axes = plt.subplots(figsize=(7, 3.8), layout="constrained")
    axes.bar(names, [row["mae"] for row in found], color=MODEL, alpha=0.5, label="MAE")
    axes.scatter(names, [row["bias"] for row in found], color=TRUTH, zorder=3, label="bias")
    for place, row in enumerate(found):
        axes.annotate(
            f"{row['frames']} frames", (place, row["mae"]), (0, 4), ha="center", fontsize=9,
            textcoords="offset points",
        )  # fmt: skip
    axes.axhline(0, color=INK, linewidth=1)
    axes.margins(y=0.18)
    axes.set(xlabel="people in the frame", ylabel="people", title="Error by true count")
    axes.legend(loc="upper left", frameon=False, ncols=2)
    return figure


def confusion(predictions: pd.DataFrame) -> Any:
    """Frames by true and predicted range of ten people."""
    tens = (predictions[["count", "predicted"]] // 10).astype(int)
    ranges = range(tens.to_numpy().min(), tens.to_numpy().max() + 1)
    table = pd.crosstab(tens["count"], tens["predicted"])
    table = table.reindex(index=ranges, columns=ranges, fill_value=0)
    names = [f"{10 * ten}-{10 * ten + 9}" for ten in ranges]
    figure, axes = plt.subplots(figsize=(5.5, 5), layout="constrained")
    axes.imshow(table, cmap="Blues", origin="lower")
    for (row, column), frames in np.ndenumerate(table.to_numpy()):
        dark = frames > table.to_numpy().max() / 2
        axes.text(column, row, frames or "", ha="center", va="center", color="w" if dark else INK)
    axes.set_xticks(range(len(names)), names)
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="people counted", ylabel="people in the frame", title="Frames by range")
    return figure


def reliability(predictions: pd.DataFrame, metrics: dict[str, Any]) -> Any:
    """Share of labels below each quantile of the answer. The diagonal is right."""
    figure, axes = plt.subplots(figsize=(5.5, 5.5), layout="constrained")
    axes.ecdf(predictions["pit"], color=MODEL, label="answers")
    axes.plot([0, 1], [0, 1], color=INK, linewidth=1, linestyle="--", label="right")
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="quantile of the answer")
    axes.set_ylabel("share of labels below it")
    axes.set_title(f"{metrics['coverage_80']:.0%} of labels in the 80 % interval")
    axes.set_aspect("equal")
    axes.grid(alpha=0.2)
    axes.legend(loc="upper left", frameon=False)
    return figure


def worst_frames(predictions: pd.DataFrame, images: Sequence[Image]) -> Any:
    """The frames with the largest errors, largest first."""
    errors = (predictions["predicted"] - predictions["count"]).abs()
    worst = errors.sort_values(ascending=False, kind="stable").index[: SHEET[0] * SHEET[1]]
    figure, axes = plt.subplots(SHEET[1], SHEET[0], figsize=(12, 8), layout="constrained")
    for cell in axes.flat:
        cell.axis("off")
    for cell, place in zip(axes.flat, worst, strict=False):
        row = predictions.loc[place]
        cell.imshow(images[int(place)])
        cell.set_title(
            f"{row['frame']}\n{row['count']} people, counted {row['predicted']} "
            f"({row['low']} to {row['high']})",
            fontsize=9,
        )
    return figure
