"""Places people in a scene: alone, in groups, in queues, on seats."""

from bisect import bisect
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pretrain.mesh import Array
from pretrain.people import Rng
from pretrain.scenes import Scene, least_height, person_height
from pretrain.sprites import Role

APART = 0.42
"""Least distance between the centres of two people, metres."""

PALETTES = 2048


@dataclass(frozen=True)
class Person:
    x: float
    """Metres, as is `z`."""
    z: float
    heading: float
    """Radians; 0 walks along +z."""
    role: Role
    variant: int
    outfit: int
    """Number of the palette, below PALETTES."""
    scale: float
    """Size against the sprite's own."""


def random_count(rng: Rng) -> int:
    """Returns how many people to place in the frame: 0 to 90, the middle range a little likelier.

    Some people hide others. Training must show more than 60 people, the largest tested number.
    Otherwise the model answers too low for large numbers.
    """
    if rng.random() < 0.02:
        return 0
    wanted = rng.uniform(0, 90) if rng.random() < 0.7 else rng.uniform(5, 48)
    return round(wanted)


def populate(rng: Rng, scene: Scene, people: int) -> list[Person]:
    """Places `people` people with heads in the frame, and more people at its edges.

    Nobody stands inside another person or a thing. If the room is full, fewer people are placed.
    """
    crowd: list[Person] = []
    inside = 0
    taken = np.full((1, 2), 1e6, np.float32)
    flow = scene.yaw + rng.choice([0, np.pi]) + rng.normal(0, 0.2)
    spots = _spots(rng, scene)
    for group in _groups(rng, scene, spots, flow):
        for person in group:
            if inside >= people:
                return crowd
            here = np.array([[person.x, person.z]], np.float32)
            near = np.hypot(*(taken - here).T).min() < APART
            if near or (person.role != Role.SIT and not scene.walkable(here)[0]):
                continue
            crowd.append(person)
            inside += _in_frame(scene, person)
            taken = np.concatenate([taken, here])
    return crowd


def _in_frame(scene: Scene, person: Person) -> bool:
    """Whether chin or waist lie in the frame, hidden or not."""
    camera = scene.camera
    chin = 1.1 if person.role in (Role.SIT, Role.CHILD) else 1.45
    column = np.array([(person.x, 0.8, person.z), (person.x, chin, person.z)], np.float32)
    pixels, depth = camera.project(column)
    inside = (pixels >= 0) & (pixels < (camera.width, camera.height))
    return bool((inside.all(axis=1) & (depth > 0.5)).any())


def _spots(rng: Rng, scene: Scene) -> Array:
    """Returns ground points, (n, 2), with a density between even in picture and even on floor."""
    camera = scene.camera
    size = np.array([camera.width, camera.height])
    pixels = rng.uniform(-0.04 * size, (1.04, 1.15) * size, (700, 2)).astype(np.float32)
    spots = camera.ground(pixels)
    tall = person_height(camera, pixels)
    good = np.nan_to_num(tall) > least_height(camera)
    good &= np.nan_to_num(np.hypot(*spots.T), nan=0) > 1.0
    good &= scene.walkable(np.nan_to_num(spots, nan=1e5))
    spots, tall = spots[good], tall[good]
    # A pixel covers ground in proportion to depth cubed, that is to height ** -3.
    weight = np.minimum(tall, 200.0) ** -rng.uniform(0.0, 2.0)
    order = np.argsort(rng.exponential(size=len(spots)) / np.maximum(weight, 1e-12))
    return spots[order]


def _groups(rng: Rng, scene: Scene, spots: Array, flow: float) -> Iterator[list[Person]]:
    """Yields people on seats first, then groups of random sizes and formations."""
    busy = rng.uniform(0.1, 0.9)
    for prop in scene.props:
        seats = [seat for seat in prop.seats if rng.random() < busy]
        yield [_person(rng, seat[:2], float(seat[2]), Role.SIT) for seat in seats]
        if rng.random() < 0.4 and not len(prop.seats):
            yield _cluster(rng, prop.at, prop.reach + 0.15, int(rng.integers(1, 6)))
    steady = rng.random()
    for spot in spots:
        kind = rng.random()
        if kind < 0.12:
            yield _cluster(rng, (float(spot[0]), float(spot[1])), 0.55, int(rng.integers(2, 6)))
        elif kind < 0.16:
            yield _queue(rng, spot, int(rng.integers(3, 8)))
        elif kind < 0.16 + 0.3 * steady:
            yield [_person(rng, spot, rng.uniform(0, 2 * np.pi), Role.STAND)]
        else:
            yield _walkers(rng, spot, flow)


WALKERS = (Role.WALK, Role.STAND, Role.CHILD, Role.PUSH)


def pick(rng: Rng, steps: tuple[float, ...]) -> int:
    """Returns an index up to len(steps); `steps` are cumulative odds without the last, 1."""
    return bisect(steps, rng.random())


def _walkers(rng: Rng, spot: Array, flow: float) -> list[Person]:
    """One to five abreast, mostly along the flow or against it."""
    heading = flow + rng.choice([0, np.pi]) + rng.normal(0, 0.3)
    if rng.random() < 0.25:
        heading = rng.uniform(0, 2 * np.pi)
    size = pick(rng, (0.5, 0.8, 0.92, 0.97)) + 1
    side = np.array([np.cos(heading), -np.sin(heading)])
    ahead = np.array([np.sin(heading), np.cos(heading)])
    group = []
    for i in range(size):
        place = spot + side * (i - size / 2) * rng.uniform(0.45, 0.8) + ahead * rng.normal(0, 0.25)
        role = WALKERS[pick(rng, (0.78, 0.86, 0.95))]
        group.append(_person(rng, place, heading + rng.normal(0, 0.15), role))
    return group


def _cluster(rng: Rng, at: tuple[float, float], radius: float, size: int) -> list[Person]:
    """Returns people who stand around a point and face it."""
    start = rng.uniform(0, 2 * np.pi)
    group = []
    for i in range(size):
        angle = start + i * max(0.5 / radius, 0.35) + rng.normal(0, 0.1)
        far = radius + abs(rng.normal(0, 0.12))
        place = np.array(at) + far * np.array([np.sin(angle), np.cos(angle)])
        role = Role.CHILD if rng.random() < 0.1 else Role.STAND
        group.append(_person(rng, place, angle + np.pi + rng.normal(0, 0.3), role))
    return group


def _queue(rng: Rng, spot: Array, size: int) -> list[Person]:
    heading = rng.uniform(0, 2 * np.pi)
    ahead = np.array([np.sin(heading), np.cos(heading)])
    steps = np.cumsum(rng.uniform(0.5, 0.95, size))
    return [
        _person(rng, spot - ahead * step, heading + rng.normal(0, 0.3), Role.STAND)
        for step in steps
    ]


def _person(rng: Rng, place: Array, heading: float, role: Role) -> Person:
    return Person(
        float(place[0]),
        float(place[1]),
        float(heading),
        role,
        int(rng.integers(1 << 16)),
        int(rng.integers(PALETTES)),
        rng.uniform(0.94, 1.06),
    )
