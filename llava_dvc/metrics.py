"""Metrics of counts: pure functions of arrays with one value per frame, in order of time.

The error of a frame is predicted - actual, in people. Shares are in [0, 1]. What is written to a
file is rounded to six digits, so that equal runs write equal files.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import accuracy_score, precision_recall_fscore_support

from llava_dvc.errors import UserError

Floats = NDArray[np.float64]
Bins = dict[str, dict[str, float]]

BLOCK = 50
"""Frames in a block of the bootstrap."""

DRAWS = 2000
"""Samples of the bootstrap."""

WITHIN = (1, 2, 3, 5)
"""The errors in people of which `within_1` and so on give the share."""


def evaluation_metrics(
    actual: ArrayLike,
    predicted: ArrayLike,
    low: ArrayLike,
    high: ArrayLike,
    nll: ArrayLike,
    parsed: ArrayLike,
) -> dict[str, float | Bins]:
    """The metrics in metrics/evaluate.json, in the order of that file: what matters
    most stands first, as in `dvc exp show`.

    `low` and `high` are the ends of each frame's 80 % interval, both included. `nll` is
    -log P(actual), in nats. `parsed` is true where the model's free reply was a number. Raises
    UserError when a label is larger than evaluate.max_count.
    """
    columns = _to_columns(actual, predicted, low, high, nll, parsed)
    truth, guess, lows, highs, losses, replied = columns
    infinite = int((~np.isfinite(losses)).sum())
    if infinite:
        raise UserError(
            f"params.yaml: evaluate.max_count: is too small: nll is not finite on {infinite} of "
            f"{len(losses)} frames, whose labels are larger. Raise evaluate.max_count."
        )
    ci_low, ci_high = mae_interval(truth, guess)
    flat: dict[str, float] = {
        "mae": mae(truth, guess),
        "mae_ci_low": ci_low,
        "mae_ci_high": ci_high,
        "rmse": rmse(truth, guess),
        "bias": bias(truth, guess),
        "coverage_80": coverage(truth, lows, highs),
        "width_80": float((highs - lows).mean()),
        **{f"within_{k}": share_within(truth, guess, k) for k in WITHIN},
        **class_metrics(truth, guess),
        "nll": float(losses.mean()),
        "frames": len(truth),
        "unparsed": float((replied == 0).mean()),
    }
    rounded = {name: _round_six(value) for name, value in flat.items()}
    return {**rounded, "bins": metrics_by_bin(truth, guess)}


def baseline_metrics(actual: ArrayLike, predicted: ArrayLike) -> dict[str, float]:
    """MAE, RMSE and accuracy, as metrics/baseline.json has them for each baseline."""
    truth, guess = _to_columns(actual, predicted)
    figures = {
        "mae": mae(truth, guess),
        "rmse": rmse(truth, guess),
        "accuracy": class_metrics(truth, guess)["accuracy"],
    }
    return {name: _round_six(value) for name, value in figures.items()}


def smoothed_metrics(
    actual: ArrayLike, predicted: ArrayLike, low: ArrayLike, high: ArrayLike
) -> dict[str, float]:
    """What metrics/evaluate.json has of the counts that are smoothed over time."""
    truth, guess, lows, highs = _to_columns(actual, predicted, low, high)
    return {
        "mae_smoothed": _round_six(mae(truth, guess)),
        "coverage_80_smoothed": _round_six(coverage(truth, lows, highs)),
    }


def mae(actual: Floats, predicted: Floats) -> float:
    """Mean absolute error, in people."""
    return float(np.abs(predicted - actual).mean())


def rmse(actual: Floats, predicted: Floats) -> float:
    """Square root of the mean squared error, in people; never below the MAE."""
    return float(np.sqrt(np.square(predicted - actual).mean()))


def bias(actual: Floats, predicted: Floats) -> float:
    """Mean error, in people; negative when too few people are counted."""
    return float((predicted - actual).mean())


def share_within(actual: Floats, predicted: Floats, people: int) -> float:
    """Share of frames whose absolute error is at most `people`."""
    return float((np.abs(predicted - actual) <= people).mean())


def coverage(actual: Floats, low: Floats, high: Floats) -> float:
    """Share of frames whose label lies in [low, high]; an 80 % interval should reach 0.8."""
    return float(((low <= actual) & (actual <= high)).mean())


def class_metrics(actual: Floats, predicted: Floats) -> dict[str, float]:
    """Accuracy, and precision, recall and F1 with each count as a class.

    A fractional prediction is rounded to the nearest whole number. A class that is never predicted
    has precision 0. A class that never occurs has recall 0.
    """
    truth, guess = np.rint(actual).astype(int), np.rint(predicted).astype(int)
    metrics = {"accuracy": float(accuracy_score(truth, guess))}
    for average in ("macro", "weighted"):
        scores = precision_recall_fscore_support(truth, guess, average=average, zero_division=0)
        for name, score in zip(("precision", "recall", "f1"), scores, strict=False):
            metrics[f"{name}_{average}"] = float(score)
    return metrics


def mae_interval(actual: Floats, predicted: Floats) -> tuple[float, float]:
    """95 % confidence interval of the MAE."""
    return mean_interval(np.abs(predicted - actual))


def mean_interval(values: Floats) -> tuple[float, float]:
    """95 % confidence interval of the mean of one value per frame, by circular block bootstrap.

    Neighbouring frames are alike. Therefore whole blocks are drawn, of 50 frames or of a quarter of
    all frames if that is fewer. Method: D. N. Politis and J. P. Romano, "A circular
    block-resampling procedure for stationary data", in Exploring the Limits of Bootstrap, 1992. The
    random seed is fixed.
    """
    n = len(values)
    size = max(1, min(BLOCK, n // 4))
    before = np.concatenate([[0.0], np.cumsum(np.concatenate([values, values[: size - 1]]))])
    block_means = (before[size:] - before[:-size]) / size  # (n,): one block starts at each frame
    starts = np.random.default_rng(0).integers(0, n, size=(DRAWS, -(-n // size)))
    low, high = np.quantile(block_means[starts].mean(axis=1), (0.025, 0.975))
    return float(low), float(high)


def metrics_by_bin(actual: Floats, predicted: Floats) -> Bins:
    """Frames, MAE and bias for each range of ten true counts; empty ranges are left out."""
    tens = (actual // 10).astype(int)
    return {
        f"{10 * ten}-{10 * ten + 9}": _group_metrics(actual[tens == ten], predicted[tens == ten])
        for ten in np.unique(tens).tolist()
    }


def metrics_by_camera(actual: ArrayLike, predicted: ArrayLike, cameras: Sequence[str]) -> Bins:
    """Frames, MAE and bias for each camera, sorted by its name."""
    truth, guess = _to_columns(actual, predicted)
    camera = np.array(cameras)
    return {
        name: _group_metrics(truth[camera == name], guess[camera == name])
        for name in sorted(set(cameras))
    }


def _group_metrics(actual: Floats, predicted: Floats) -> dict[str, float]:
    return {
        "frames": len(actual),
        "mae": _round_six(mae(actual, predicted)),
        "bias": _round_six(bias(actual, predicted)),
    }


def _to_columns(*values: ArrayLike) -> list[Floats]:
    columns = [np.asarray(value, dtype=np.float64) for value in values]
    shapes = [column.shape for column in columns]
    if columns[0].ndim != 1 or len(set(shapes)) > 1 or not columns[0].size:
        raise ValueError(f"expected equally long, non-empty columns, got shapes {shapes}")
    return columns


def _round_six(value: float) -> float:
    return value if isinstance(value, int) else round(value, 6) + 0.0  # + 0.0 turns -0.0 into 0.0
