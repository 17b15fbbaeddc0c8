"""`image.tiles` in training: every tile of a frame is a row. Points say how many people it has."""

from functools import partial

from datasets import Dataset

from llava_dvc import errors
from llava_dvc.model.tiles import Grid, points_in, tile_boxes
from llava_dvc.training.points import have_points
from llava_dvc.training.row_copies import Row, recounted, row_copies


def with_tiles(frames: Dataset, grid: Grid) -> Dataset:
    """The tiles of all frames, each with its own picture, points, count and answer. Cut when they
    are read. Frames that are not cut stay as they are. Raises UserError without points.
    """
    if grid == (1, 1):
        return frames
    if not have_points(frames):
        raise errors.tiles_without_points(grid)
    return row_copies(frames, "tile", grid[0] * grid[1], partial(tile_of, grid=grid))


def tile_of(row: Row, grid: Grid) -> Row:
    """The tile of a frame that the row's `tile` numbers, as a row."""
    image = row["image"]
    box = tile_boxes(image.size, grid)[row["tile"]]
    people = points_in(box, image.size, [(point["x"], point["y"]) for point in row["points"]])
    return recounted(row, row["tile"], image.crop(box), people)
