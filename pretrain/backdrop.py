"""The painted backdrop of a scene: floor, walls, ceiling, and what lies flat on them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from pretrain import surfaces
from pretrain.camera import Camera, paste_plane, polygon_mask, visible_box
from pretrain.mesh import Array, turn
from pretrain.people import Rng
from pretrain.places import Place


def paint_backdrop(
    rng: Rng, camera: Camera, place: Place, bounds: Array, yaw: float, gloss: float
) -> Image.Image:
    """The frame of an empty place. `bounds` and `yaw` are a Scene's, `gloss` is a Light's."""
    image = surfaces.paint_floor(camera, surfaces.floor(int(rng.integers(surfaces.FLOORS))), yaw)
    spin = turn(yaw)
    for _ in range(int(rng.integers(0, 4))):
        _patch(rng, image, camera, bounds, spin)
    if place.lines:
        _stripes(rng, image, camera, bounds, spin)
    walls = _walls(rng, place, bounds, camera.above)
    tone = surfaces.tint(rng, 40, 250)
    if gloss > 0.04:
        mirrored = image.copy()
        _raise(
            mirrored,
            camera,
            [Wall(w.corner, w.way, w.count, 1, w.first) for w in walls],
            spin,
            tone,
            -1,
        )
        image = Image.blend(image, mirrored.filter(ImageFilter.BoxBlur((1, 4))), 1.8 * gloss)
    _glow(rng, image, camera, bounds, spin)
    _raise(image, camera, walls, spin, tone, 1)
    if not place.outdoors:
        _ceiling(rng, image, camera, bounds, spin)
    return image


def fill(image: Image.Image, camera: Camera, polygon: Any, colour: Any, opacity: float) -> None:
    """Fills a polygon in space, (n, 3), with a flat colour."""
    outline = camera.seen(polygon)
    box = visible_box(outline, camera)
    if box is None:
        return
    mask = polygon_mask(outline, box, opacity)
    image.paste(tuple(int(np.clip(v, 0, 255)) for v in colour), box, mask)


def disc(x: float, z: float, radius: float, sides: int = 40) -> Array:
    """A circle on the floor, (sides, 3)."""
    angle = np.linspace(0, 2 * np.pi, sides, endpoint=False)
    return np.stack(
        [x + np.sin(angle) * radius, np.zeros(sides), z + np.cos(angle) * radius], axis=1
    ).astype(np.float32)


def slab(x0: float, x1: float, z0: float, z1: float) -> Array:
    """A rectangle on the floor, (4, 3)."""
    return np.array([(x0, 0, z0), (x1, 0, z0), (x1, 0, z1), (x0, 0, z1)], np.float32)


def _patch(rng: Rng, image: Image.Image, camera: Camera, bounds: Array, spin: Array) -> None:
    """Inlays and stains: discs, rings, mats, paths."""
    x, z = rng.uniform(*bounds[:2]), rng.uniform(1, min(bounds[3], 25))
    colour = surfaces.tint(rng, 20, 235)
    opacity = rng.uniform(0.1, 0.6)
    kind = rng.integers(3)
    if kind == 0:
        radius = rng.uniform(0.6, 5)
        fill(image, camera, disc(x, z, radius) @ spin.T, colour, opacity)
        if rng.random() < 0.4:
            fill(image, camera, disc(x, z, radius * 0.6) @ spin.T, 255 - colour, opacity)
    elif kind == 1:
        w, d = rng.uniform(0.5, 4, 2)
        fill(image, camera, slab(x, x + w, z, z + d) @ spin.T, colour, opacity)
    else:
        w = rng.uniform(0.2, 2)
        fill(image, camera, slab(x, x + w, -2, bounds[3]) @ spin.T, colour, opacity)


def _stripes(rng: Rng, image: Image.Image, camera: Camera, bounds: Array, spin: Array) -> None:
    """Road markings or a platform edge with the track bed beyond it."""
    bright = rng.uniform(150, 245) * np.array([1, 1, rng.uniform(0.3, 1)])
    x = rng.uniform(*(bounds[:2] * 0.6))
    length = float(bounds[3])
    if rng.random() < 0.5:
        fill(image, camera, slab(x, bounds[1], -3, length) @ spin.T, np.full(3, 45), 0.75)
    fill(image, camera, slab(x - 0.4, x - 0.2, -3, length) @ spin.T, bright, 0.8)
    if rng.random() < 0.4:
        near = rng.uniform(2, 12)
        for i in range(int(rng.integers(5, 12))):
            bar = slab(x + 0.3 + i * 0.9, x + 0.75 + i * 0.9, near, near + 3)
            fill(image, camera, bar @ spin.T, bright, 0.7)


def _glow(rng: Rng, image: Image.Image, camera: Camera, bounds: Array, spin: Array) -> None:
    """Paints spots of light and window reflections on the floor, stretched to the camera."""
    small = Image.new("L", (camera.width // 8, camera.height // 8))
    pen = ImageDraw.Draw(small)
    if rng.random() < 0.4:
        far = float(bounds[3])
        outline = camera.seen(slab(-60, 60, far * rng.uniform(0.3, 0.8), far) @ spin.T)
        if len(outline) > 2:
            pen.polygon([(px / 8, py / 8) for px, py in outline], fill=int(rng.uniform(30, 130)))
    for _ in range(int(rng.integers(0, 7))):
        x, z = rng.uniform(*bounds[:2]), rng.uniform(1, min(bounds[3], 30))
        level = int(rng.uniform(20, 120))
        if rng.random() < 0.5:
            shape = disc(x, z, rng.uniform(0.5, 3), 20)
        else:
            shape = slab(x, x + rng.uniform(0.5, 3), z, z + rng.uniform(1, 8))
        outline = camera.seen(shape @ spin.T)
        if len(outline) > 2:
            pen.polygon([(px / 8, py / 8) for px, py in outline], fill=level)
    soft = small.filter(ImageFilter.GaussianBlur(rng.uniform(0.8, 4)))
    soft = soft.resize(image.size, Image.Resampling.BILINEAR)
    image.paste(tuple(int(v) for v in rng.uniform(215, 255, 3)), (0, 0), soft)


def _ceiling(rng: Rng, image: Image.Image, camera: Camera, bounds: Array, spin: Array) -> None:
    """A flat ceiling somewhat above the camera, with lamps in rows."""
    top, z = camera.above + rng.uniform(0.8, 5), float(bounds[3])
    roof = np.array([(-60, top, -3), (60, top, -3), (60, top, z), (-60, top, z)]) @ spin.T
    if not visible_box(camera.seen(roof), camera):
        return
    fill(image, camera, roof, surfaces.tint(rng, 40, 225), 1.0)
    apart = rng.uniform(3, 6)
    for row in np.arange(2, z, 4):
        for x in np.arange(-9, 10, apart):
            lamp = (slab(x, x + 1.2, row, row + 0.6) + np.array([0, top - 0.02, 0])) @ spin.T
            fill(image, camera, lamp, np.full(3, 250), 0.9)


@dataclass(frozen=True)
class Wall:
    """A row of panels of 12 m by 4 m."""

    corner: tuple[float, float, float]
    way: tuple[float, float, float]
    """Unit vector along the row."""
    count: int
    storeys: int
    first: int
    """Number of the first shop front; the others follow from it."""


def _walls(rng: Rng, place: Place, bounds: Array, above: float) -> list[Wall]:
    """Returns the end wall and, if the place has shop fronts, both long walls."""
    left, right, low, far = (float(v) for v in bounds)
    first = rng.integers(surfaces.FRONTS, size=3).tolist()
    # Lower walls would show the floor behind them.
    storeys = np.maximum(rng.integers(1, 4, 2), int(above / 4) + 1).tolist()
    wide = 3 if place.fronts else 8
    walls = [Wall((-6 * wide, 0, far), (1, 0, 0), wide, storeys[0], first[0])]
    if place.fronts:
        count = int((far - low) // 12) + 1
        walls.append(Wall((left, 0, low), (0, 0, 1), count, storeys[1], first[1]))
        back = low + 12 * count
        walls.append(Wall((right, 0, back), (0, 0, -1), count, storeys[1], first[2]))
    return walls


def _raise(
    image: Image.Image, camera: Camera, walls: Sequence[Wall], spin: Array, tone: Array, up: int
) -> None:
    """Paints the plain end (wall or sky) and the walls; `up` -1 gives their mirror image."""
    z = walls[0].corner[2]
    high = 90 * up
    end = np.array([(-200, 0, z), (200, 0, z), (200, high, z), (-200, high, z)]) @ spin.T
    fill(image, camera, end, tone, 1.0)
    rise = np.array([0, 4 * up, 0])
    for wall in walls:
        way = np.array(wall.way) * 12
        for panel in reversed(range(wall.count)):
            for storey in range(wall.storeys):
                number = (wall.first + panel * 7 + storey * 31) % surfaces.FRONTS
                base = (np.array(wall.corner) + way * panel + rise * storey) @ spin.T
                depth = float(camera.project(base + way @ spin.T / 2)[1])
                fine = sum(camera.focal * 4 < least * depth for least in (150, 75))
                texture = surfaces.front(number, fine)
                paste_plane(image, camera, texture, base, way @ spin.T, rise)
