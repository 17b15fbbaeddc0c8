"""A pinhole camera above a ground plane, and its pictures of planes.

World axes as in `mesh`: the camera stands at (0, height, 0) and looks along +z, tilted down.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from pretrain.mesh import Array

NEAR = 0.4
"""Least depth of what is drawn, metres."""


@dataclass(frozen=True)
class Camera:
    width: int
    """Pixels, as are `height` and `focal`."""
    height: int
    focal: float
    above: float
    """Metres over the ground."""
    tilt: float
    """Radians below the horizontal."""
    roll: float
    """Radians."""

    @cached_property
    def matrix(self) -> Array:
        """(3, 4): maps (x, y, z, 1) to homogeneous pixels, whose last entry is depth in metres."""
        c, s = np.cos(self.tilt), np.sin(self.tilt)
        cr, sr = np.cos(self.roll), np.sin(self.roll)
        look = np.array([[1, 0, 0], [0, -c, -s], [0, -s, c]])
        spin = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
        inner = np.array(
            [[self.focal, 0, self.width / 2], [0, self.focal, self.height / 2], [0, 0, 1]]
        )
        rotation = inner @ spin @ look
        shift = rotation @ np.array([0, -self.above, 0])
        return np.concatenate([rotation, shift[:, None]], axis=1).astype(np.float32)

    def project(self, points: Array) -> tuple[Array, Array]:
        """Pixels (..., 2) and depth (...,) in metres of points (..., 3)."""
        matrix = self.matrix
        flat = points @ matrix[:, :3].T + matrix[:, 3]
        depth = flat[..., 2]
        return flat[..., :2] / np.maximum(depth, NEAR)[..., None], depth

    def ground(self, pixels: Any) -> Array:
        """Returns the ground x and z, (..., 2), at pixels (..., 2); NaN above the horizon."""
        inverse = np.linalg.inv(self.matrix[:, [0, 2, 3]])
        spot = np.asarray(pixels, np.float32) @ inverse[:, :2].T + inverse[:, 2]
        # Below the horizon the third coordinate (1 / depth) is positive.
        scale = np.where(spot[..., 2] > 1e-4, spot[..., 2], np.nan)
        return np.asarray(spot[..., :2] / scale[..., None], np.float32)

    def pixel_grid(self, step: int = 1) -> Array:
        """(height / step, width / step, 2): the centre of every step-th pixel."""
        x, y = np.meshgrid(
            np.arange(self.width // step, dtype=np.float32) * step + step / 2,
            np.arange(self.height // step, dtype=np.float32) * step + step / 2,
        )
        return np.stack([x, y], axis=-1)

    def seen(self, polygon: Any) -> list[tuple[float, float]]:
        """Clips a flat polygon, (n, 3), to the part before the camera; returns pixels."""
        matrix = self.matrix
        flat = (np.asarray(polygon, np.float32) @ matrix[:, :3].T + matrix[:, 3]).tolist()
        if all(w >= NEAR for _, _, w in flat):
            return [(x / w, y / w) for x, y, w in flat]
        kept = []
        for here, after in zip(flat, flat[1:] + flat[:1], strict=True):
            if here[2] >= NEAR:
                kept.append(here)
            if (here[2] >= NEAR) != (after[2] >= NEAR):
                share = (NEAR - here[2]) / (after[2] - here[2])
                kept.append([h + share * (a - h) for h, a in zip(here, after, strict=True)])
        return [(x / w, y / w) for x, y, w in kept]


def paste_plane(
    image: Image.Image, camera: Camera, texture: Image.Image, corner: Any, along: Any, up: Any
) -> None:
    """Paints `texture` on the rectangle that starts at `corner` and spans `along` and `up`, (3,).

    The texture's bottom left lies at the corner; its width runs along, its top edge is up.
    """
    corner, along, up = (np.asarray(v, np.float32) for v in (corner, along, up))
    outline = camera.seen([corner, corner + along, corner + along + up, corner + up])
    box = visible_box(outline, camera)
    if box is None:
        return
    left, top, right, bottom = box
    matrix = camera.matrix
    plane = np.stack(
        [matrix[:, :3] @ along, matrix[:, :3] @ up, matrix[:, :3] @ corner + matrix[:, 3]], axis=1
    )
    scale = np.array(
        [[texture.width, 0, 0], [0, -texture.height, texture.height], [0, 0, 1]], np.float64
    )
    offset = np.array([[1, 0, left], [0, 1, top], [0, 0, 1]], np.float64)
    if abs(np.linalg.det(plane)) < 1e-6:
        return
    back = scale @ np.linalg.inv(plane) @ offset
    coefficients = (back / back[2, 2]).ravel()[:8].tolist()
    size = right - left, bottom - top
    warped = texture.transform(
        size,
        Image.Transform.PERSPECTIVE,
        coefficients,
        Image.Resampling.BILINEAR,
        fillcolor=texture.getpixel(
            (2, texture.height - 3)
        ),  # rounding leaves black pixels at the edges
    )
    image.paste(warped, (left, top), polygon_mask(outline, box))


def polygon_mask(
    outline: list[tuple[float, float]], box: tuple[int, int, int, int], opacity: float = 1.0
) -> Image.Image:
    """Mode L: `opacity` inside a polygon, within a pixel box."""
    left, top, right, bottom = box
    mask = Image.new("L", (right - left, bottom - top))
    ImageDraw.Draw(mask).polygon([(x - left, y - top) for x, y in outline], fill=int(255 * opacity))
    return mask


def visible_box(
    outline: list[tuple[float, float]], camera: Camera
) -> tuple[int, int, int, int] | None:
    """The part of a polygon's bounding box inside the frame, or None."""
    if len(outline) < 3:
        return None
    points = np.array(outline)
    low = np.maximum(np.floor(points.min(axis=0)), 0)
    high = np.minimum(np.ceil(points.max(axis=0)), (camera.width, camera.height))
    if (high - low < 1).any():
        return None
    return int(low[0]), int(low[1]), int(high[0]), int(high[1])
