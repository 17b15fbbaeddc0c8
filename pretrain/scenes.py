"""Scenes: a camera, a painted backdrop, things, and the ground where people may be."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from PIL import Image

from pretrain import props
from pretrain.backdrop import paint_backdrop
from pretrain.camera import Camera
from pretrain.mesh import Array
from pretrain.people import Rng
from pretrain.places import ODDS, PLACES, Place
from pretrain.props import Prop

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
    backdrop = paint_backdrop(rng, camera, place, bounds, yaw, light.gloss)
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
