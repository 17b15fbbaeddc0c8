"""Calibration of the distribution over counts by one temperature.

It is fitted on the validation frames, cross-fitted: they also select the adapter.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize_scalar

from llava_dvc.model.counting import Floats

SMALLEST = 1e-30  # probability of a count that the model rules out
BOUNDS = 0.25, 16.0


def tempered(probabilities: Floats, temperature: float) -> Floats:
    """P(count) ** (1 / temperature), renormalised. Above 1 spreads it out, 1 leaves it unchanged.

    `(frames, max_count + 1)` in and out.
    """
    scores = np.log(np.maximum(probabilities, SMALLEST)) / temperature
    mass: Floats = np.exp(scores - scores.max(axis=1, keepdims=True))
    mass /= mass.sum(axis=1, keepdims=True)
    return mass


def fit_temperature(probabilities: Floats, counts: ArrayLike) -> float:
    """The temperature that makes the true counts likeliest (Guo et al., arXiv 1706.04599).

    Within 0.25 to 16, rounded to three digits. A few dozen frames are enough for one number. An
    interval read from the result still widens with the frame's own uncertainty.
    """
    truth = np.asarray(counts, dtype=int)

    def mean_nll(log_temperature: float) -> float:
        mass = tempered(probabilities, float(np.exp(log_temperature)))
        right = mass[np.arange(len(truth)), truth.clip(max=mass.shape[1] - 1)]
        return float(-np.log(np.maximum(right, SMALLEST)).mean())

    low, high = map(math.log, BOUNDS)
    best: Any = minimize_scalar(mean_nll, bounds=(low, high), method="bounded")
    return round(float(np.exp(best.x)), 3)
