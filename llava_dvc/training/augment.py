"""`train.augment`: image changes that keep the count, or know it (`splice`).

Nothing else is cut off: the count stays true. Every row has its own random draws, the same in every
epoch: a resumed training equals an uninterrupted one.
"""

import random
from collections.abc import Sequence
from typing import Any

from datasets import Dataset, concatenate_datasets
from PIL import ImageEnhance, ImageFilter
from PIL.Image import Image
from PIL.ImageOps import mirror

from llava_dvc.training.points import have_points
from llava_dvc.training.splices import with_splices

LIGHT = 0.3  # largest change of brightness and contrast, as a share
BLUR = 0.004  # largest radius, as a share of the longer side: 2.5 pixels of 640


def augmented_rows(frames: Dataset, kinds: Sequence[str]) -> Dataset:
    """All rows of an epoch, before `image.tiles` cuts them."""
    rows = with_mirror_images(frames) if "flip" in kinds else frames
    return with_splices(rows) if "splice" in kinds and have_points(frames) else rows


def with_mirror_images(rows: Dataset) -> Dataset:
    """Every row twice. The second one has `mirror` set."""
    sides = [rows.add_column("mirror", [side] * len(rows)) for side in (False, True)]
    return concatenate_datasets(sides)


def augmented_image(row: dict[str, Any], kinds: Sequence[str]) -> Image:
    """The row's frame, mirrored if the row says so, with the `light` and `blur` of `kinds`."""
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


def augmented_points(row: dict[str, Any]) -> list[tuple[float, float]]:
    """Where the people are in the `augmented_image`, in pixels."""
    width = row["image"].width
    x_of = (lambda x: width - x) if row.get("mirror") else float
    return [(x_of(point["x"]), point["y"]) for point in row["points"]]
