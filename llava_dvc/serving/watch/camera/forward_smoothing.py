"""Counts of one camera that also use the frames before."""

import math

import numpy as np

from llava_dvc.model.counting import Floats
from llava_dvc.model.smoothing import CountChain
from llava_dvc.recipe import Recipe
from llava_dvc.serving.counter import Count
from llava_dvc.serving.smoothed_counts import frame_chain, with_distribution

MAX_MISSED = 60
"""Readings. After a longer pause the frames before say nothing."""


class ForwardSmoothing:
    """The chain of `predict --smooth`, forward only: no count waits for a later frame."""

    def __init__(self, recipe: Recipe, every: float, frame_seconds: float) -> None:
        """`every` is the time between readings, `frame_seconds` that between training frames.

        The sum of n steps is as wide as one step times the root of n. `recipe` must have a
        smoothing.
        """
        self._recipe, self._every = recipe, every
        self._widen = math.sqrt(every / frame_seconds)
        self._chain: CountChain | None = None
        self._last = 0.0

    def step(self, count: Count, seconds: float) -> Count:
        """Returns the count of a frame that came at `seconds`, given all before. They must rise."""
        missed = round((seconds - self._last) / self._every) - 1
        self._last = seconds
        if self._chain is None or missed > MAX_MISSED:
            self._chain = frame_chain(self._recipe, self._widen)
            missed = 0
        unknown = np.full(len(count.probabilities), 1 / len(count.probabilities))
        for _ in range(missed):
            _add(self._chain, unknown)
        smoothed = _add(self._chain, np.array(count.probabilities))
        return with_distribution(count, smoothed, self._recipe.decode)


def _add(chain: CountChain, probabilities: Floats) -> Floats:
    chain.add(probabilities)
    found: Floats = chain.take(1)[0]
    return found
