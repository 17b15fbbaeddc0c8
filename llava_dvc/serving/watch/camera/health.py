"""Whether a camera's pictures can be true: not frozen, black or blinded, nor of another view."""

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

GREY = 500_000
"""Pixels that are compared, at most about."""
FROZEN_CHANGE = 0.05
"""Mean change of a pixel, of 255. The noise of a sensor alone is ten times as much."""
FROZEN_READINGS = 5
CHANGED_READINGS = 3
"""One picture can be unlike the training frames because somebody stands before the lens."""
DARK_MEAN = 20.0
DARK_CONTRAST = 10.0
FLAT_CONTRAST = 6.0
"""Standard deviation of the grey levels. A wall that fills the picture has more."""

Levels = NDArray[np.int16]


class PictureHealth:
    """Looks at the pictures of one camera in order of time."""

    def __init__(self) -> None:
        self._last: Levels | None = None
        self._alike = 1
        """Pictures in a row that do not differ, the last one included."""
        self._unlike = 0
        """Pictures in a row that are unlike the training frames, the last one included."""

    def step(self, image: Image, distance: float | None = None) -> str | None:
        """Returns `black`, `blinded`, `frozen` or `changed`; None for a picture that can be true.

        `distance` is that from the training frames: above 1 the picture is unlike them.
        """
        self._unlike = self._unlike + 1 if distance is not None and distance > 1 else 0
        levels = grey_levels(image)
        last, self._last = self._last, levels
        self._alike = self._alike + 1 if last is not None and is_alike(last, levels) else 1
        if levels.mean() < DARK_MEAN and levels.std() < DARK_CONTRAST:
            return "black"
        if levels.std() < FLAT_CONTRAST:
            return "blinded"
        if self._alike >= FROZEN_READINGS:
            return "frozen"
        return "changed" if self._unlike >= CHANGED_READINGS else None


def grey_levels(image: Image) -> Levels:
    """Every pixel of a small picture, and every n-th in both directions of a large one."""
    step = max(1, round((image.width * image.height / GREY) ** 0.5))
    return np.asarray(image.convert("L"), dtype=np.int16)[::step, ::step]


def is_alike(first: Levels, second: Levels) -> bool:
    return first.shape == second.shape and bool(np.abs(first - second).mean() < FROZEN_CHANGE)
