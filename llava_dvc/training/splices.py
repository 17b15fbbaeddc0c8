"""`train.augment: splice`: new frames from parts of several frames of a camera.

The camera stands still, so the parts fit together. Points say how many people a part has. The model
sees people and light in combinations that no frame has. CutMix, for counts and a fixed camera:
Yun et al., "CutMix", ICCV 2019.
"""

import random
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from itertools import pairwise

from datasets import Dataset
from PIL.Image import Image

from llava_dvc.model.padding import Size
from llava_dvc.model.tiles import Box, Point, points_in
from llava_dvc.training.row_copies import Row, recounted

MOST_SEAMS = (2, 1)
"""Vertical and horizontal ones in a frame."""
EDGE = 0.1
"""Least distance of a seam from the frame's edge, as a share of its side."""


def splicer(rows: Dataset) -> Callable[[Row], Row]:
    """What splices a copy of one of `rows`. The same copy is always spliced alike."""
    places = defaultdict(list)
    for place, camera in enumerate(rows["camera"][:]):
        places[camera].append(place)
    return partial(spliced, rows=rows, places=dict(places))


def spliced(row: Row, rows: Dataset, places: dict[str | None, list[int]]) -> Row:
    """The row's frame with parts of others, if it is not the first `copy`. `places` are those of
    each camera in `rows`. The part at the upper left stays. Frames of other sizes give no part.
    """
    if not row["copy"]:
        return row
    draw = random.Random(f"{row['frame']} {row['copy']}")
    image: Image = row["image"].copy()
    people: list[Point] = []
    for part, box in enumerate(_parts(draw, image.size)):
        other = rows[draw.choice(places[row["camera"]])] if part else row
        other = other if other["image"].size == image.size else row
        image.paste(other["image"].crop(box), box)
        points = [(point["x"], point["y"]) for point in other["points"]]
        people += [(x + box[0], y + box[1]) for x, y in points_in(box, image.size, points)]
    return recounted(row, row["copy"], image, people)


def _parts(draw: random.Random, size: Size) -> list[Box]:
    columns, rows = (
        pairwise(sorted({0, *_seams(draw, length, most), length}))
        for length, most in zip(size, MOST_SEAMS, strict=True)
    )
    across = list(columns)
    return [(left, top, right, bottom) for top, bottom in rows for left, right in across]


def _seams(draw: random.Random, length: int, most: int) -> list[int]:
    seams = range(draw.randint(0, most))
    return [round(length * draw.uniform(EDGE, 1 - EDGE)) for _ in seams]
