"""Figures, drawn once for DVC, MLflow and TensorBoard."""

from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd

matplotlib.use("Agg")
from matplotlib import pyplot as plt

INK, MODEL, TRUTH = "#333333", "#1f6f8b", "#d1495b"


def draw_all(predictions: pd.DataFrame, metrics: dict[str, Any], folder: Path) -> list[Path]:
    """Write every figure of an evaluation into `folder`; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = {"prediction_vs_truth": scatter, "count_over_time": timeline}
    paths = []
    for name, draw in drawn.items():
        figure = draw(predictions, metrics)
        paths.append(folder / f"{name}.png")
        figure.savefig(paths[-1], dpi=110, metadata={"Software": None})
        plt.close(figure)
    return paths


def scatter(predictions: pd.DataFrame, metrics: dict[str, Any]) -> Any:
    """Prediction against truth, with the central 80 % of each answer."""
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
    """The count over the evaluation frames, truth and answer."""
    figure, axes = plt.subplots(figsize=(9, 3.6), layout="constrained")
    order = range(len(predictions))
    axes.fill_between(
        order, predictions["low"], predictions["high"], color=MODEL, alpha=0.2, linewidth=0,
        label="central 80 % of the answer",
    )  # fmt: skip
    axes.plot(order, predictions["predicted"], color=MODEL, label="counted")
    axes.plot(order, predictions["count"], color=TRUTH, linewidth=1.2, label="people in the frame")
    top = max(predictions["count"].max(), predictions["high"].max(), 1)
    axes.set(xlabel="evaluation frame, in order of time", ylabel="people", ylim=(0, top * 1.25))
    axes.set_title(f"{metrics['within_3']:.0%} of frames within 3 people")
    axes.grid(alpha=0.2)
    axes.legend(loc="upper left", frameon=False, ncols=3)
    return figure
