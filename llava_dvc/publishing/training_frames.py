"""What a model card says of the frames: their size, counts and points, and examples if drawn."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from datasets import Image

from llava_dvc.dataset import load_split

SAMPLE = "0b643be3e7ec6ee4a9f84699227f70ec.dir"
"""DVC's md5 of the sample in data.dvc. Its frames are drawn: no other frame is ever published."""
LOOKED_AT = 32
"""Training frames whose size is read: decoding all of them can take minutes."""


@dataclass(frozen=True)
class TrainingFrames:
    """The training frames as a whole."""

    sizes: tuple[str, ...]
    """Width and height in pixels, as in `640x480`."""
    fewest: int
    most: int
    """People in a frame."""
    have_points: bool
    """Whether data/ had a points.csv."""


@dataclass(frozen=True)
class Example:
    """A held-out frame with its row in predictions/eval.csv."""

    name: str
    content: bytes
    count: int
    predicted: int
    low: int
    high: int


def read_training_frames(prepared: Path) -> TrainingFrames:
    """The training split. Sizes are those of LOOKED_AT frames, evenly spaced."""
    rows = load_split(prepared, "train")
    places = sorted({i * (len(rows) - 1) // (LOOKED_AT - 1) for i in range(LOOKED_AT)})
    sizes = {image.size for image in rows.select(places)["image"]}
    counts = rows["count"]
    return TrainingFrames(
        sizes=tuple(f"{width}x{height}" for width, height in sorted(sizes)),
        fewest=min(counts),
        most=max(counts),
        have_points=rows[0]["points"] is not None,
    )


def drawn_examples(prepared: Path, predictions: Path, data_md5: str) -> tuple[Example, ...]:
    """The held-out frames with the fewest, the median and the most people.

    Empty for all data but the sample: other frames may show people.
    """
    if data_md5 != SAMPLE:
        return ()
    table = pd.read_csv(predictions)
    order = table["count"].sort_values(kind="stable").index
    rows = load_split(prepared, "eval").cast_column("image", Image(decode=False))
    places = dict.fromkeys(int(order[place]) for place in (0, len(order) // 2, -1))
    return tuple(_example(rows[place], table.loc[place]) for place in places)


def _example(row: dict[str, Any], answer: Any) -> Example:
    numbers = (int(answer[name]) for name in ("count", "predicted", "low", "high"))
    return Example(row["frame"], row["image"]["bytes"], *numbers)
