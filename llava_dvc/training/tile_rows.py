"""`image.tiles` in training: every tile of a frame is a row. Points say how many people it has."""

from functools import partial
from typing import Any

from datasets import Dataset, concatenate_datasets

from llava_dvc import errors
from llava_dvc.conversation import Conversation, question_text
from llava_dvc.model.tiles import Grid, points_in, tile_boxes
from llava_dvc.training.points import have_points


def with_tiles(frames: Dataset, grid: Grid) -> Dataset:
    """The tiles of all frames, each with its own picture, points, count and answer. Cut when they
    are read. Frames that are not cut stay as they are. Raises UserError without points.
    """
    if grid == (1, 1):
        return frames
    if not have_points(frames):
        raise errors.tiles_without_points(grid)
    tiles = range(grid[0] * grid[1])
    parts = [frames.add_column("tile", [tile] * len(frames)) for tile in tiles]
    return concatenate_datasets(parts).with_transform(partial(_cut_batch, grid=grid))


def _cut_batch(batch: dict[str, list[Any]], grid: Grid) -> dict[str, list[Any]]:
    rows = [dict(zip(batch, row, strict=True)) for row in zip(*batch.values(), strict=True)]
    cut = [tile_of(row, grid) for row in rows]
    return {name: [row[name] for row in cut] for name in batch}


def tile_of(row: dict[str, Any], grid: Grid) -> dict[str, Any]:
    """The tile of a frame that the row's `tile` numbers, as a row."""
    image = row["image"]
    box = tile_boxes(image.size, grid)[row["tile"]]
    people = points_in(box, image.size, [(point["x"], point["y"]) for point in row["points"]])
    return row | {
        "frame": f"{row['frame']} {row['tile']}",  # it has random draws of its own
        "image": image.crop(box),
        "points": [{"x": x, "y": y} for x, y in people],
        "count": len(people),
        "messages": Conversation(question_text(row["messages"])).messages(len(people)),
    }
