"""`image.tiles`: frames are cut into columns x rows tiles. Each is a frame of its own to the model.

A head of a few pixels is then larger in what the model sees. The frame's distribution over counts
is that of the sum of its tiles' counts.
"""

from collections.abc import Sequence
from functools import reduce
from itertools import pairwise
from typing import overload

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

from llava_dvc.conversation import format_count, parse_count
from llava_dvc.model.padding import Size

Grid = tuple[int, int]
"""Columns and rows."""
Box = tuple[int, int, int, int]
"""Left, top, right and bottom in pixels, as Pillow has them."""
Point = tuple[float, float]


def tile_boxes(size: Size, grid: Grid) -> list[Box]:
    """The tiles of a frame, row by row. Every pixel is in one of them."""
    columns, rows = (
        list(pairwise(round(place * length / parts) for place in range(parts + 1)))
        for length, parts in zip(size, grid, strict=True)
    )
    return [(left, top, right, bottom) for top, bottom in rows for left, right in columns]


def tile_sizes(size: Size, grid: Grid) -> list[Size]:
    """Width and height of every tile. They differ by at most a pixel."""
    return [(right - left, bottom - top) for left, top, right, bottom in tile_boxes(size, grid)]


def points_in(box: Box, size: Size, points: Sequence[Point]) -> list[Point]:
    """The points of a frame of `size` that its tile `box` holds, in pixels of the tile.

    A point on the line between two tiles belongs to the right or the lower one.
    """
    ends = [end + (end == length) for end, length in zip(box[2:], size, strict=True)]
    return [
        (x - box[0], y - box[1])
        for x, y in points
        if box[0] <= x < ends[0] and box[1] <= y < ends[1]
    ]


class Tiles(Sequence[Image]):
    """The tiles of all frames, frame by frame. Cut when they are read."""

    def __init__(self, frames: Sequence[Image], grid: Grid) -> None:
        self.frames, self.grid = frames, grid
        self.number = grid[0] * grid[1]
        """Of tiles in a frame."""
        self._last: tuple[int, Image] | None = None

    def __len__(self) -> int:
        return len(self.frames) * self.number

    @overload
    def __getitem__(self, place: int) -> Image: ...
    @overload
    def __getitem__(self, place: slice) -> list[Image]: ...
    def __getitem__(self, place: int | slice) -> Image | list[Image]:
        if isinstance(place, slice):
            return [self[each] for each in range(*place.indices(len(self)))]
        frame, tile = divmod(place, self.number)
        if self._last is None or self._last[0] != frame:  # decoding is slow
            self._last = frame, self.frames[frame]
        image = self._last[1]
        return image.crop(tile_boxes(image.size, self.grid)[tile])


def convolve(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """P(count) of every frame, `(frames, max_count + 1)`, from that of its tiles,
    `(frames, tiles, max_count + 1)`. Takes the tiles of a frame as independent.

    Sums above max_count get no probability. The rest is scaled to sum to 1.
    """
    numbers = probabilities.shape[-1]
    mass = np.array(
        [reduce(lambda a, b: np.convolve(a, b)[:numbers], tiles) for tiles in probabilities]
    )
    total = mass.sum(axis=1, keepdims=True)
    mass[total[:, 0] == 0, -1] = 1  # certainly above max_count
    return mass / np.where(total == 0, 1, total)


def reply_of_tiles(replies: Sequence[str]) -> str:
    """The sum of the tiles' numbers; if one has none, all replies with ` + ` between them."""
    numbers = list(map(parse_count, replies))
    if None in numbers:
        return " + ".join(replies)
    return format_count(sum(number or 0 for number in numbers))
