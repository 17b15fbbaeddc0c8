"""`train.augment`: image changes that keep the count, or know it (`splice`).

Nothing else is cut off: the count stays true. Every copy of a frame has its own random draws, the
same in every epoch: a resumed training equals an uninterrupted one.
"""

import math
import random
from collections.abc import Sequence

from datasets import Dataset
from PIL import ImageEnhance, ImageFilter
from PIL.Image import Image
from PIL.ImageOps import mirror

from llava_dvc.config import Train
from llava_dvc.training.points import have_points
from llava_dvc.training.row_copies import Row, row_copies
from llava_dvc.training.splices import splicer

COPIES = 4
"""Rows of an epoch for every frame, with `flip` or `splice`. The first is the frame as it is."""
LIGHT = 0.3  # largest change of brightness and contrast, as a share
BLUR = 0.004  # largest radius, as a share of the longer side: 2.5 pixels of 640


def augmented_rows(frames: Dataset, train: Train) -> Dataset:
    """All rows of an epoch, before `image.tiles` cuts them.

    With `splice` and points, all copies but the first have parts of other frames. Few frames then
    have more copies, for `min_steps`. More copies without splices would only be learnt by heart.
    """
    if "splice" in train.augment and have_points(frames):
        batches = train.min_steps * train.accumulation / train.epochs
        copies = max(COPIES, math.ceil(batches * train.batch_size / len(frames)))
        return row_copies(frames, "copy", copies, splicer(frames))
    return row_copies(frames, "copy", COPIES, dict) if "flip" in train.augment else frames


def augmented_image(row: Row, kinds: Sequence[str]) -> Image:
    """The row's frame with the changes of `kinds`. `flip` mirrors every second copy."""
    image: Image = row["image"]
    draw = random.Random(f"{row['frame']} {row.get('copy')}")
    if _is_mirrored(row, kinds):
        image = mirror(image)
    if "light" in kinds:
        for change in (ImageEnhance.Brightness, ImageEnhance.Contrast):
            image = change(image).enhance(draw.uniform(1 - LIGHT, 1 + LIGHT))
    if "blur" in kinds and draw.random() < 0.5:
        image = image.filter(ImageFilter.GaussianBlur(draw.uniform(0, BLUR) * max(image.size)))
    return image


def augmented_points(row: Row, kinds: Sequence[str]) -> list[tuple[float, float]]:
    """Where the people are in the `augmented_image`, in pixels."""
    width = row["image"].width
    x_of = (lambda x: width - x) if _is_mirrored(row, kinds) else float
    return [(x_of(point["x"]), point["y"]) for point in row["points"]]


def _is_mirrored(row: Row, kinds: Sequence[str]) -> bool:
    return "flip" in kinds and row.get("copy", 0) % 2 == 1
