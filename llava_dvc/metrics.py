"""How good the counts are: pure functions of arrays, one value per frame, in order of time.

Errors are in people, shares in [0, 1]; the error of a frame is predicted - actual. Everything
is rounded to six digits, so that equal runs write equal files.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import accuracy_score, precision_recall_fscore_support

from llava_dvc.errors import UserError

Floats = NDArray[np.float64]
Bins = dict[str, dict[str, float]]

BLOCK = 50
DRAWS = 2000
WITHIN = (1, 2, 3, 5)


def evaluation(
    actual: ArrayLike,
    predicted: ArrayLike,
    low: ArrayLike,
    high: ArrayLike,
    nll: ArrayLike,
    parsed: ArrayLike,
) -> dict[str, float | Bins]:
    """Everything in metrics/evaluate.json, in the order of that file.

    `low` and `high` bound each frame's 80 % interval, both included; `nll` is -log P(actual), in
    nats; `parsed` says whether the free reply held a number.
    """
    columns = _columns(actual, predicted, low, high, nll, parsed)
    truth, guess, lows, highs, losses, held = columns
    lost = int((~np.isfinite(losses)).sum())
    if lost:
        raise UserError(
            f"nll is not finite on {lost} of {len(losses)} frames: a label lies outside "
            "0..evaluate.max_count. Raise evaluate.max_count in params.yaml."
        )
    ci_low, ci_high = mae_interval(truth, guess)
    flat: dict[str, float] = {
        "frames": len(truth),
        "mae": mae(truth, guess),
        "rmse": rmse(truth, guess),
        "bias": bias(truth, guess),
        **class_metrics(truth, guess),
        **{f"within_{k}": within(truth, guess, k) for k in WITHIN},
        "mae_ci_low": ci_low,
        "mae_ci_high": ci_high,
        "coverage_80": coverage(truth, lows, highs),
        "width_80": float((highs - lows).mean()),
        "nll": float(losses.mean()),
        "unparsed": float((held == 0).mean()),
    }
    return {**{name: _rounded(value) for name, value in flat.items()}, "bins": bins(truth, guess)}


def summary(actual: ArrayLike, predicted: ArrayLike) -> dict[str, float]:
    """The three figures of a baseline."""
    truth, guess = _columns(actual, predicted)
    figures = {
        "mae": mae(truth, guess),
        "rmse": rmse(truth, guess),
        "accuracy": class_metrics(truth, guess)["accuracy"],
    }
    return {name: _rounded(value) for name, value in figures.items()}


def mae(actual: Floats, predicted: Floats) -> float:
    """Mean absolute error, in people."""
    return float(np.abs(predicted - actual).mean())


def rmse(actual: Floats, predicted: Floats) -> float:
    """Root of the mean squared error, in people; never below the MAE."""
    return float(np.sqrt(np.square(predicted - actual).mean()))


def bias(actual: Floats, predicted: Floats) -> float:
    """Mean of predicted - actual, in people: below 0 when too few are counted."""
    return float((predicted - actual).mean())


def within(actual: Floats, predicted: Floats, people: int) -> float:
    """Share of frames off by at most `people`."""
    return float((np.abs(predicted - actual) <= people).mean())


def coverage(actual: Floats, low: Floats, high: Floats) -> float:
    """Share of frames whose label lies in [low, high]; 0.8 is right for an 80 % interval."""
    return float(((low <= actual) & (actual <= high)).mean())


def class_metrics(actual: Floats, predicted: Floats) -> dict[str, float]:
    """Exact match, and precision, recall and F1 with every count a class of its own.

    A fractional prediction stands for its nearest whole number. A class that was never
    predicted has precision 0, one that never occurs recall 0.
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

    Neighbouring frames are alike, so blocks of 50 (a quarter of the frames when that is fewer)
    are drawn instead of frames: D. N. Politis and J. P. Romano, "A circular block-resampling
    procedure for stationary data", in Exploring the Limits of Bootstrap, 1992. The draws are
    always the same.
    """
    n = len(values)
    size = max(1, min(BLOCK, n // 4))
    before = np.concatenate([[0.0], np.cumsum(np.concatenate([values, values[: size - 1]]))])
    block_means = (before[size:] - before[:-size]) / size  # (n,): one block starts at each frame
    starts = np.random.default_rng(0).integers(0, n, size=(DRAWS, -(-n // size)))
    low, high = np.quantile(block_means[starts].mean(axis=1), (0.025, 0.975))
    return float(low), float(high)


def bins(actual: Floats, predicted: Floats) -> Bins:
    """Frames, MAE and bias per range of ten people, by the true count; empty ranges are absent."""
    tens = (actual // 10).astype(int)
    return {
        f"{10 * ten}-{10 * ten + 9}": _group(actual[tens == ten], predicted[tens == ten])
        for ten in np.unique(tens).tolist()
    }


def by_camera(actual: ArrayLike, predicted: ArrayLike, cameras: Sequence[str]) -> Bins:
    """Frames, MAE and bias per camera, in the order of their names."""
    truth, guess = _columns(actual, predicted)
    of = np.array(cameras)
    return {name: _group(truth[of == name], guess[of == name]) for name in sorted(set(cameras))}


def _group(actual: Floats, predicted: Floats) -> dict[str, float]:
    return {
        "frames": len(actual),
        "mae": _rounded(mae(actual, predicted)),
        "bias": _rounded(bias(actual, predicted)),
    }


def _columns(*values: ArrayLike) -> list[Floats]:
    columns = [np.asarray(value, dtype=np.float64) for value in values]
    shapes = [column.shape for column in columns]
    if columns[0].ndim != 1 or len(set(shapes)) > 1 or not columns[0].size:
        raise ValueError(f"expected equally long, non-empty columns, got shapes {shapes}")
    return columns


def _rounded(value: float) -> float:
    return value if isinstance(value, int) else round(value, 6) + 0.0  # + 0.0: never -0.0
