"""Scenes: a camera, a painted backdrop, things, and the ground where people may be."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from pretrain import props, surfaces
from pretrain.camera import Camera, paste_plane, polygon_mask, visible_box
from pretrain.mesh import Array, turn
from pretrain.people import Rng
from pretrain.props import Maker, Prop

MAX_GLOSS = 0.16
"""Largest opacity of mirror images on a floor."""

MIN_TILT = 15.0
"""Least tilt of a camera, degrees."""


@dataclass(frozen=True)
class Light:
    cast: tuple[float, float]
    """End of the shadow of a 1 m stick, metres along x and z."""
    shadow: float
    """Darkness of cast shadows, [0, 1]."""
    soft: float
    """Blur of cast shadows, pixels of a 640 wide frame."""
    gloss: float
    """Opacity of mirror images on the floor."""


@dataclass(frozen=True)
class Scene:
    camera: Camera
    backdrop: Image.Image
    props: list[Prop]
    light: Light
    yaw: float
    """Radians from the camera's forward direction to the building's long axis."""
    bounds: Array
    """(4,): least and largest x, least and largest z of the floor, in the building's axes."""

    @cached_property
    def _solid(self) -> Array:
        """(things, 3): x, z and reach."""
        return np.array([(*prop.at, prop.reach) for prop in self.props], np.float32).reshape(-1, 3)

    def walkable(self, spots: Array) -> Any:
        """Whether ground points (n, 2) lie on the floor and not in a thing, (n,)."""
        inner = building_axes(spots, self.yaw)
        low, high = self.bounds[[0, 2]], self.bounds[[1, 3]]
        gap = ((spots[:, None] - self._solid[:, :2]) ** 2).sum(axis=-1)
        clear = (gap > self._solid[:, 2] ** 2).all(axis=1)
        return clear & ((inner > low) & (inner < high)).all(axis=1)


@dataclass(frozen=True)
class Place:
    """Settings of a kind of place."""

    half_width: tuple[float, float]
    length: tuple[float, float]
    fronts: bool
    """Whether both sides have walls with shop fronts."""
    things: tuple[Maker, ...]
    count: tuple[int, int]
    outdoors: bool = False
    lines: bool = False
    """Painted lines along the floor: a road, a platform edge."""


PLACES = (
    Place((4, 10), (14, 50), True,
          (props.kiosk, props.bench, props.planter, props.palm, props.bin_, props.stand), (0, 8)),
    Place((8, 22), (20, 50), True,
          (props.kiosk, props.kiosk, props.bench, props.planter, props.palm, props.pillar,
           props.table, props.rail, props.balloons, props.mannequin, props.escalator), (2, 12)),
    Place((4, 12), (20, 60), True,
          (props.car, props.car, props.bin_, props.palm, props.pigeon, props.rail, props.stand,
           props.bench), (1, 9), outdoors=True, lines=True),
    Place((4, 9), (25, 60), True,
          (props.pillar, props.bench, props.bin_, props.stand), (1, 8), lines=True),
    Place((4, 12), (10, 25), True,
          (props.shelf, props.shelf, props.rack, props.rack, props.kiosk, props.stand,
           props.mannequin), (3, 12)),
    Place((6, 14), (10, 30), True,
          (props.table, props.table, props.table, props.planter, props.kiosk), (3, 12)),
    Place((15, 30), (25, 60), False,
          (props.bench, props.palm, props.pigeon, props.bin_, props.rail, props.kiosk,
           props.mannequin), (0, 8),
          outdoors=True),
)  # fmt: skip


ODDS = (0.24, 0.24, 0.12, 0.1, 0.12, 0.1, 0.08)
"""How often each of PLACES is chosen."""


def random_camera(rng: Rng, size: tuple[int, int], people: int) -> Camera:
    """Returns a camera that shows people at a useful size and has room for `people` of them."""
    width, height = size
    usual = rng.random() < 0.5
    for _ in range(200):
        above, tilt, zoom = _mount(rng, usual)
        camera = Camera(width, height, width * zoom, above, np.radians(tilt), rng.normal(0, 0.025))
        tall = person_height(camera, np.array([[width / 2, height * 0.6]])) / width * 640
        if 20 < tall[0] < 115 and room(camera) > people * 0.45 + 4:
            break
    return camera


def _mount(rng: Rng, usual: bool) -> tuple[float, float, float]:
    """Height in metres, tilt in degrees, focal length in frame widths."""
    if usual:
        return rng.uniform(3.5, 9), rng.uniform(17, 38), rng.uniform(0.75, 1.6)
    tilt = rng.uniform(45, 80) if rng.random() < 0.3 else rng.uniform(MIN_TILT, 45)
    above, zoom = np.exp(rng.uniform(np.log((2.2, 0.55)), np.log((12, 1.9))))
    return float(above), tilt, float(zoom)


def person_height(camera: Camera, pixels: Array) -> Array:
    """Returns the height in pixels of 1.7 m at the ground points of pixels (n, 2)."""
    spots = camera.ground(pixels)
    depth = spots[..., 1] * np.cos(camera.tilt) + camera.above * np.sin(camera.tilt)
    return np.asarray(np.nan_to_num(camera.focal * 1.7 / depth))


def room(camera: Camera) -> float:
    """Returns the square metres of visible ground where people are tall enough to count."""
    step = max(camera.width // 16, 1)
    grid = camera.pixel_grid(step).reshape(-1, 2)
    spots = camera.ground(grid)
    tall = person_height(camera, grid)
    depth = spots[:, 1] * np.cos(camera.tilt) + camera.above * np.sin(camera.tilt)
    area = step**2 * depth**3 / (camera.focal**2 * camera.above)
    return float(np.nansum(np.where(tall > least_height(camera), area, 0)))


def least_height(camera: Camera) -> float:
    """Returns the least height of people, pixels."""
    return 14 * camera.width / 640


def building_axes(spots: Array, yaw: float) -> Array:
    """Turns ground points (..., 2) from the camera's axes to the building's."""
    c, s = np.cos(yaw), np.sin(yaw)
    x, z = spots[..., 0], spots[..., 1]
    return np.asarray(np.stack([x * c - z * s, x * s + z * c], axis=-1))


def random_scene(rng: Rng, size: tuple[int, int], people: int) -> Scene:
    camera = random_camera(rng, size, people)
    place = PLACES[rng.choice(len(PLACES), p=ODDS)]
    reach = camera.above / np.tan(camera.tilt)
    length = max(rng.uniform(*place.length), reach * 1.3)
    left, right = rng.uniform(*place.half_width, 2)
    bounds = np.array([-left, right, -3.0, length], np.float32)
    yaw = rng.normal(0, 0.28)
    light = _light(rng, place.outdoors)
    backdrop = _paint(rng, camera, place, bounds, yaw, light.gloss)
    things = _furnish(rng, camera, place, bounds, yaw)
    return Scene(camera, backdrop, things, light, yaw, bounds)


def _light(rng: Rng, outdoors: bool) -> Light:
    sunny = outdoors and rng.random() < 0.5
    angle = rng.uniform(0, 2 * np.pi)
    long = rng.uniform(0.4, 1.6) if sunny else rng.uniform(0.0, 0.4)
    cast = float(np.sin(angle) * long), float(np.cos(angle) * long)
    gloss = 0.0 if outdoors else max(0.0, rng.uniform(-0.08, MAX_GLOSS))
    soft = rng.uniform(0.8, 2) if sunny else rng.uniform(2.5, 8)
    return Light(
        cast, rng.uniform(0.3, 0.6) if sunny else rng.uniform(0.05, 0.3), soft, gloss
    )  # fmt: skip


def _furnish(rng: Rng, camera: Camera, place: Place, bounds: Array, yaw: float) -> list[Prop]:
    """Returns things at random places on the floor, most of them in view."""
    things: list[Prop] = []
    for _ in range(int(rng.integers(*place.count, endpoint=True))):
        maker = place.things[rng.integers(len(place.things))]
        prop = props.stored(maker, int(rng.integers(props.VARIANTS)))
        spot = camera.ground(rng.uniform((0, 0), (camera.width, camera.height * 1.1)))
        inner = building_axes(spot, yaw)
        inside = bounds[0] < inner[0] < bounds[1] and 0.5 < inner[1] < bounds[3]
        # A thing close to the lens would hide the room.
        away = float(np.hypot(*spot))
        if not inside or prop.reach * camera.focal > 0.3 * camera.width * away:
            continue
        if any(np.hypot(*(spot - other.at)) < prop.reach + other.reach for other in things):
            continue
        square = yaw + rng.integers(4) * np.pi / 2
        facing = square if rng.random() < 0.8 else rng.uniform(0, 2 * np.pi)
        things.append(prop.placed(float(spot[0]), float(spot[1]), float(facing)))
    return things


def _paint(
    rng: Rng, camera: Camera, place: Place, bounds: Array, yaw: float, gloss: float
) -> Image.Image:
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
