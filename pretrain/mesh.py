"""Small quad meshes and their painter's-algorithm drawing.

Axes everywhere: x to the right, y up, z forward (away from the camera); metres.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ImageDraw

Array = NDArray[np.floating[Any]]
Draw = ImageDraw.ImageDraw

LEVELS = 15
"""Shades per material; an index image holds `material * 16 + level`."""

CLEAR = 255
"""The index of a pixel that no face covers."""

LIGHT = np.array([0.25, 0.88, -0.40], np.float32)
"""Direction to the light in camera-aligned ground axes: above, a little to the front."""


@dataclass(frozen=True)
class Mesh:
    quads: Array
    """(faces, 4, 3), wound so that the normal points outwards."""
    material: NDArray[np.uint8]
    """(faces,)"""

    def moved(self, x: float, z: float, yaw: float) -> "Mesh":
        """Turns it about the y axis (0 faces +z, positive turns towards +x), then shifts it."""
        quads = self.quads @ turn(yaw).T + np.array([x, 0, z], np.float32)
        return Mesh(quads.astype(np.float32), self.material)


def join(meshes: Sequence[Mesh]) -> Mesh:
    return Mesh(
        np.concatenate([mesh.quads for mesh in meshes]),
        np.concatenate([mesh.material for mesh in meshes]),
    )


def turn(yaw: float) -> Array:
    """(3, 3) rotation about y that takes +z to (sin yaw, 0, cos yaw)."""
    c, s = np.cos(yaw), np.sin(yaw)
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]], np.float32)


def tube(
    path: Any,
    radii: Any,
    material: int | Sequence[int],
    sides: int = 8,
    lateral: Any = (1.0, 0.0, 0.0),
) -> Mesh:
    """A closed tube of elliptic rings along `path`, (n, 3).

    `radii` is (n,) or (n, 2): half-width along `lateral`, then across it. A sequence of
    materials gives one per ring gap, n - 1 in all.
    """
    centre = np.asarray(path, np.float32)
    radius = np.asarray(radii, np.float32)
    if radius.ndim == 1:
        radius = np.stack([radius, radius], axis=1)
    centre = np.concatenate([centre[:1], centre, centre[-1:]])
    radius = np.concatenate([radius[:1] * 0.05, radius, radius[-1:] * 0.05])
    axis = _unit(np.gradient(centre, axis=0))
    across = _unit(np.cross(axis, np.asarray(lateral, np.float32)))
    side = np.cross(across, axis)
    angle = np.linspace(0, 2 * np.pi, sides + 1, dtype=np.float32)[:, None, None]
    rings = (
        centre + np.cos(angle) * radius[:, :1] * side + np.sin(angle) * radius[:, 1:] * across
    )  # (sides + 1, n + 2, 3)
    quads = np.stack([rings[:-1, :-1], rings[:-1, 1:], rings[1:, 1:], rings[1:, :-1]], axis=2)
    gaps = len(centre) - 1
    each = [material] * (gaps - 2) if isinstance(material, int) else list(material)
    kinds = np.array([each[0], *each, each[-1]], np.uint8)
    return Mesh(quads.reshape(-1, 4, 3).astype(np.float32), np.tile(kinds, sides))


def ball(centre: Any, radii: Any, material: int, sides: int = 10, rings: int = 7) -> Mesh:
    """An ellipsoid with half-axes `radii`, (3,), along x, y, z."""
    angle = np.linspace(-0.5, 0.5, rings, dtype=np.float32) * np.pi
    x, y, z = (float(r) for r in radii)
    path = np.asarray(centre, np.float32) + np.outer(np.sin(angle) * y, (0, 1, 0))
    ring = np.maximum(np.cos(angle), 0.08)
    return tube(path, np.stack([ring * x, ring * z], axis=1), material, sides)


def box(centre: Any, size: Any, material: int, top: int | None = None) -> Mesh:
    """A block, axis-aligned; `centre` and `size` are (3,). `top` may have its own material."""
    corner = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]], np.float32)
    faces = []
    for axis in range(3):
        u, v = (axis + 1) % 3, (axis + 2) % 3
        for sign in (-1, 1):
            face = np.zeros((4, 3), np.float32)
            face[:, axis], face[:, u], face[:, v] = sign, corner[:, 0], corner[:, 1] * sign
            faces.append(face)
    quads = np.stack(faces) * np.asarray(size, np.float32) / 2 + np.asarray(centre, np.float32)
    kinds = np.full(6, material, np.uint8)
    kinds[3] = material if top is None else top
    return Mesh(quads.astype(np.float32), kinds)


def shade(quads: Array) -> Array:
    """Brightness of each face, (faces,), in [0, 1]: ambient from above plus one soft light."""
    normal = _unit(np.cross(quads[:, 2] - quads[:, 0], quads[:, 3] - quads[:, 1]))
    return np.asarray(
        np.clip(0.36 + 0.20 * normal[:, 1] + 0.44 * np.maximum(normal @ LIGHT, 0), 0.0, 1.0)
    )


def paint(draw: Draw, corners: Array, depth: Array, fill: Sequence[Any]) -> None:
    """Draws projected faces, `corners` (faces, 4, 2) in pixels, farthest first, no back faces.

    `depth` is (faces,), larger is farther. The sign of a face's area tells its side.
    """
    diagonal = corners[:, 2] - corners[:, 0], corners[:, 3] - corners[:, 1]
    area = diagonal[0][:, 0] * diagonal[1][:, 1] - diagonal[0][:, 1] * diagonal[1][:, 0]
    order = np.argsort(-depth)
    order = order[area[order] < 0]
    flat = corners.reshape(-1, 8)[order].tolist()
    for index, points in zip(order.tolist(), flat, strict=True):
        draw.polygon(points, fill=fill[index])


def _unit(vectors: Any) -> Any:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-6)
