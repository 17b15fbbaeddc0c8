"""Other pictures of the same people: what `train.augment` does to a training frame.

Nothing here cuts anything off: the count stays true. Every row has draws of its own, the same in
every epoch, so that a resumed training is the uninterrupted one.
"""

import random
from collections.abc import Sequence
from typing import Any

from datasets import Dataset, concatenate_datasets
from PIL import ImageEnhance, ImageFilter
from PIL.Image import Image
from PIL.ImageOps import mirror

LIGHT = 0.3  # by how much of itself brightness and contrast change at most
BLUR = 0.004  # radius at most, as a share of the longer side: 2.5 pixels of 640


def mirrored(rows: Dataset) -> Dataset:
    """Every row twice, the second time to be seen in a mirror."""
    sides = [rows.add_column("mirror", [side] * len(rows)) for side in (False, True)]
    return concatenate_datasets(sides)


def picture(row: dict[str, Any], kinds: Sequence[str]) -> Image:
    """What of a row is shown: its frame, mirrored if it says so, in another light and out of focus
    if `kinds` names them.
    """
    image: Image = row["image"]
    draw = random.Random(f"{row['frame']} {row.get('mirror')}")
    if row.get("mirror"):
        image = mirror(image)
    if "light" in kinds:
        for change in (ImageEnhance.Brightness, ImageEnhance.Contrast):
            image = change(image).enhance(draw.uniform(1 - LIGHT, 1 + LIGHT))
    if "blur" in kinds and draw.random() < 0.5:
        image = image.filter(ImageFilter.GaussianBlur(draw.uniform(0, BLUR) * max(image.size)))
    return image
