"""Barrel distortion of a finished picture, its owner image and its heads.

A point at distance r from the middle, in half diagonals, shows what lay at
r (1 + bulge r^2) / (1 + bulge): corners stay in place, straight edges bow outwards.
"""

import numpy as np
from PIL import Image

from pretrain.mesh import Array

CELLS = 10
"""The mapping is exact at the corners of CELLS by CELLS patches and bilinear inside them."""


def bend(image: Image.Image, bulge: float) -> Image.Image:
    """Bends an RGB picture by interpolation, or an owner image (mode L) by nearest pixel."""
    size = np.array(image.size)
    grid = np.stack(np.meshgrid(*(np.linspace(0, s, CELLS + 1) for s in size)), axis=-1)
    corners = np.rint(grid).astype(int)
    source = _source(corners.astype(np.float32), size, bulge)
    patches = []
    for row in range(CELLS):
        for column in range(CELLS):
            box = (*corners[row, column].tolist(), *corners[row + 1, column + 1].tolist())
            quad = source[[row, row + 1, row + 1, row], [column, column, column + 1, column + 1]]
            patches.append((box, tuple(quad.ravel().tolist())))
    smooth = Image.Resampling.BILINEAR if image.mode == "RGB" else Image.Resampling.NEAREST
    return image.transform(image.size, Image.Transform.MESH, patches, smooth)


def bend_heads(
    heads: Array, areas: Array, size: tuple[int, int], bulge: float
) -> tuple[Array, Array]:
    """Returns the heads, (n, 3), and the areas, (n,), after the distortion."""
    extent = np.array(size)
    straight = _drawn_in(heads[:, :2], extent)
    spots = straight.copy()
    for _ in range(6):
        spots += straight - _source(spots, extent, bulge)
    square = (((spots - extent / 2) ** 2).sum(axis=1) / ((extent / 2) ** 2).sum())[:, None]
    zoom = (1 + bulge) / (1 + bulge * square)
    moved = np.concatenate([spots, heads[:, 2:] * zoom], axis=1).astype(np.float32)
    return moved, (areas * zoom[:, 0] ** 2).astype(np.float32)


def _drawn_in(spots: Array, size: Array) -> Array:
    """Moves points far outside the frame, where the inverse diverges, closer to the frame.

    They stay outside: the frame ends at distance 1.
    """
    offset = spots - size / 2
    distance = np.linalg.norm(offset / np.linalg.norm(size / 2), axis=1, keepdims=True)
    nearer = np.minimum(1, 1.2 / np.maximum(distance, 1.2))
    return np.asarray(size / 2 + offset * nearer, np.float32)


def _source(spots: Array, size: Array, bulge: float) -> Array:
    """Maps pixels, (..., 2), of the bent picture to pixels of the straight one."""
    offset = spots - size / 2
    square = (offset**2).sum(axis=-1, keepdims=True) / ((size / 2) ** 2).sum()
    return np.asarray(size / 2 + offset * (1 + bulge * square) / (1 + bulge), np.float32)
