"""Things that stand around: kiosks, benches, plants, pillars, cars. They hide people."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np

from pretrain import people, sprites
from pretrain.mesh import Array, Mesh, ball, box, join, tube
from pretrain.people import Part, Rng


@dataclass(frozen=True)
class Prop:
    """A thing at the origin, or placed in the world once `placed` has moved it."""

    mesh: Mesh
    colours: Array
    """(materials, 3) in [0, 255]."""
    reach: float
    """Least distance of anybody's feet from its centre, metres."""
    seats: Array
    """(seats, 3): x, z, and the heading of a person who sits there."""
    at: tuple[float, float] = (0.0, 0.0)

    def placed(self, x: float, z: float, yaw: float) -> "Prop":
        c, s = np.cos(yaw), np.sin(yaw)
        seats = self.seats.copy()
        seats[:, 0] = self.seats[:, 0] * c + self.seats[:, 1] * s + x
        seats[:, 1] = -self.seats[:, 0] * s + self.seats[:, 1] * c + z
        seats[:, 2] += yaw
        return Prop(self.mesh.moved(x, z, yaw), self.colours, self.reach, seats, (x, z))


WARMTH = np.array([0.14, 0.02, -0.16], np.float32)

NO_SEATS = np.zeros((0, 3), np.float32)


def tones(rng: Rng, count: int, low: float = 25, high: float = 220) -> Array:
    """Mostly grey or brown colours, (count, 3)."""
    value = rng.uniform(low, high, (count, 1))
    warm = rng.normal(0, 1, (count, 1)) * WARMTH
    return np.asarray(np.clip(value * (1 + warm), 0, 255), np.float32)


def goods(rng: Rng, count: int) -> Array:
    """Returns colours of goods, (count, 3): one hue, different strengths."""
    base, strong = rng.uniform(40, 220, 3), rng.uniform(0.05, 0.7)
    mixed = base + (rng.uniform(10, 245, (count, 3)) - base) * strong
    return np.asarray(mixed.mean(axis=1, keepdims=True) * 0.4 + mixed * 0.6, np.float32)


COUNTER = ((0.06, 0.12, 0.94, 8), (0.5, 0.76, 1.0, 0), (0.94, 0.12, 1.06, 1))
"""Foot, body and top of a counter: height of the middle, thickness, width, material."""


def kiosk(rng: Rng) -> Prop:
    """A stall: counter, glass case with goods, roof on posts."""
    w, d, h = rng.uniform(1.2, 3.0), rng.uniform(1.0, 2.0), rng.uniform(1.9, 2.5)
    parts = [box((0, y, 0), (w * s, t, d * s), m, 1) for y, t, s, m in COUNTER]
    parts += [
        box(
            (rng.uniform(-w, w) * 0.42, rng.uniform(1.05, 1.5), rng.uniform(-d, d) * 0.42),
            rng.uniform(0.08, 0.4, 3),
            int(rng.integers(2, 8)),
        )
        for _ in range(int(rng.integers(4, 14)))
    ]
    if rng.random() < 0.6:
        parts += [box((0, h, 0), (w * 1.1, 0.25, d * 1.1), 0, 1)]
        parts += [
            box((x * w / 2.1, h / 2, z * d / 2.1), (0.08, h, 0.08), 0)
            for x in (-1, 1)
            for z in (-1, 1)
        ]
    colours = np.concatenate([tones(rng, 2, 60, 230), goods(rng, 6), tones(rng, 1, 10, 60)])
    return Prop(join(parts), colours.astype(np.float32), max(w, d) * 0.62 + 0.2, NO_SEATS)


def bench(rng: Rng) -> Prop:
    """A bench, with or without a back, seats along one or both sides."""
    length, both = rng.uniform(1.4, 3.6), rng.random() < 0.4
    depth = 0.9 if both else 0.5
    parts = [box((0, 0.38, 0), (length, 0.12, depth), 0)]
    parts += [box((x * length / 2.3, 0.17, 0), (0.1, 0.33, depth * 0.8), 1) for x in (-1, 1)]
    if rng.random() < 0.5:
        parts.append(box((0, 0.65, 0 if both else 0.24), (length, 0.5, 0.08), 0))
    places = np.arange(-length / 2 + 0.3, length / 2 - 0.2, 0.55)
    seats = [(x, -depth / 2 + 0.2, np.pi) for x in places]
    if both:
        seats += [(x, depth / 2 - 0.2, 0.0) for x in places]
    return Prop(join(parts), tones(rng, 2), length / 2 + 0.2, np.array(seats, np.float32))


def planter(rng: Rng) -> Prop:
    """A tub with a bush, sometimes with a round seat about it."""
    radius, h = rng.uniform(0.3, 0.7), rng.uniform(0.4, 0.8)
    parts = [tube([(0, 0, 0), (0, h, 0)], (radius * 0.85, radius), 0, 12)]
    seats = NO_SEATS
    if rng.random() < 0.4:
        ring = radius + 0.5
        parts.append(tube([(0, 0.0, 0), (0, 0.42, 0)], (ring, ring), 1, 16))
        angle = np.arange(0, 2 * np.pi, 0.6 / ring)
        seats = np.stack([np.sin(angle) * (ring - 0.2), np.cos(angle) * (ring - 0.2), angle], 1)
        radius = ring
    parts.append(leaves(rng, int(rng.integers(25, 70)), (0, h, 0), 0.55, rng.uniform(0.3, 0.7)))
    colours = np.concatenate([tones(rng, 2), greens(rng)])
    return Prop(join(parts), colours, radius + 0.25, seats.astype(np.float32))


def palm(rng: Rng) -> Prop:
    """A trunk with hanging fronds, or a round tree, 2.5 to 5 m."""
    h, pot = rng.uniform(2.2, 4.6), rng.uniform(0.3, 1.0)
    parts = [tube([(0, 0, 0), (0, 0.5, 0)], (pot, pot), 0, 14)]
    parts.append(tube([(0, 0.4, 0), (0, h, 0)], (0.13, 0.1), 1, 7))
    if rng.random() < 0.6:
        parts.append(fronds(rng, h))
    else:
        parts.append(leaves(rng, 110, (0, h, 0), rng.uniform(0.7, 1.3), rng.uniform(0.2, 0.35)))
    colours = np.concatenate([tones(rng, 2, 25, 130), greens(rng)])
    return Prop(join(parts), colours, pot + 0.3, NO_SEATS)


def greens(rng: Rng) -> Array:
    """Leaf colours, (3, 3), for materials 2 to 4."""
    base = np.array([52, 72, 38]) * rng.uniform(0.5, 1.4) + rng.normal(0, 6, 3)
    return np.asarray(np.clip(base * np.array([[0.7], [1.0], [1.4]]), 5, 250), np.float32)


def leaves(rng: Rng, count: int, centre: tuple[float, ...], spread: float, size: float) -> Mesh:
    """Random leaf-like quads, two-sided, in a ball of radius `spread`; materials 2 to 4."""
    middle = rng.normal(size=(count, 1, 3)) * spread / 2
    middle[..., 1] = abs(middle[..., 1])
    along = rng.normal(size=(count, 1, 3)) * size / 2
    across = rng.normal(size=(count, 1, 3)) * size / 6
    corners = np.concatenate([-along, across, along, -across], axis=1)
    quads = (middle + corners + np.array(centre)).astype(np.float32)
    return _two_sided(quads, rng.integers(2, 5, count).astype(np.uint8))


def fronds(rng: Rng, h: float) -> Mesh:
    """A palm's crown of feathered, drooping leaves at height h."""
    quads = []
    for angle in np.arange(0, 2 * np.pi, 2 * np.pi / rng.integers(14, 26)):
        reach, rise = rng.uniform(0.8, 1.6), rng.uniform(0.1, 0.9)
        out = np.array([np.sin(angle), 0, np.cos(angle)])
        side = np.array([out[2], 0, -out[0]])
        t = np.linspace(0.1, 1, 7)[:, None]
        spine = t * reach * out + np.array([0, 1, 0]) * (rise * t - (rise + 0.5) * t**2)
        for way in (-1, 1):
            tip = spine[1:] + side * way * 0.32 - np.array([0, 0.25, 0])
            quads.append(np.stack([spine[:-1], spine[:-1] + out * 0.1, tip, tip - out * 0.06], 1))
    flat = np.concatenate(quads).astype(np.float32) + np.array([0, h, 0], np.float32)
    return _two_sided(flat, rng.integers(2, 5, len(flat)).astype(np.uint8))


def _two_sided(quads: Array, material: np.ndarray) -> Mesh:
    return Mesh(np.concatenate([quads, quads[:, ::-1]]), np.concatenate([material, material]))


def pillar(rng: Rng) -> Prop:
    r, h = rng.uniform(0.2, 0.5), rng.uniform(3.0, 7.0)
    if rng.random() < 0.5:
        mesh = tube([(0, 0, 0), (0, 0.3, 0), (0, h, 0)], (r * 1.1, r, r), 0, 14)
    else:
        mesh = box((0, h / 2, 0), (2 * r, h, 2 * r), 0)
    return Prop(mesh, tones(rng, 1, 60, 235), r * 1.3 + 0.2, NO_SEATS)


def bin_(rng: Rng) -> Prop:
    r = rng.uniform(0.2, 0.35)
    mesh = tube([(0, 0, 0), (0, 0.75, 0), (0, 0.9, 0)], (r * 0.9, r, r * 0.7), 0, 10)
    return Prop(mesh, tones(rng, 1, 15, 120), r + 0.2, NO_SEATS)


def table(rng: Rng) -> Prop:
    """A cafe table with four chairs."""
    parts = [box((0, 0.72, 0), (0.8, 0.05, 0.8), 0), box((0, 0.36, 0), (0.1, 0.7, 0.1), 1)]
    seats = []
    for angle in np.arange(4) * np.pi / 2:
        x, z = 0.72 * np.sin(angle), 0.72 * np.cos(angle)
        parts.append(box((x, 0.42, z), (0.42, 0.06, 0.42), 1))
        back = 0.94 / 0.72
        size = (0.42, 0.45, 0.05) if abs(x) < 0.1 else (0.05, 0.45, 0.42)
        parts.append(box((x * back, 0.68, z * back), size, 1))
        seats.append((x, z, angle + np.pi))
    return Prop(join(parts), tones(rng, 2), 1.0, np.array(seats, np.float32))


def shelf(rng: Rng) -> Prop:
    """A gondola or clothes rack full of coloured goods."""
    length, h = rng.uniform(1.5, 4.5), rng.uniform(1.1, 1.9)
    rows, columns = int(rng.integers(2, 5)), int(length / rng.uniform(0.15, 0.5)) + 2
    parts = [box((0, h / 2, 0), (length, h, 0.5), 0)]
    for row in range(rows):
        for column in range(columns):
            x = (column + 0.5) / columns * length - length / 2
            size = (length / columns * 0.9, h / rows * rng.uniform(0.5, 0.9), 0.62)
            parts.append(box((x, (row + 0.5) * h / rows, 0), size, int(rng.integers(1, 9))))
    colours = np.concatenate([tones(rng, 1), goods(rng, 8)])
    return Prop(join(parts), colours, length / 2 + 0.3, NO_SEATS)


def car(rng: Rng) -> Prop:
    body = tube(
        [(0, 0.55, -2.1), (0, 0.62, -1.9), (0, 0.66, 1.7), (0, 0.55, 2.1)],
        [(0.7, 0.25), (0.88, 0.4), (0.88, 0.42), (0.7, 0.28)], 0, 10,
    )  # fmt: skip
    cabin = tube(
        [(0, 0.95, -1.6), (0, 1.2, -0.9), (0, 1.22, 0.4), (0, 0.95, 1.2)],
        [(0.7, 0.1), (0.68, 0.3), (0.68, 0.3), (0.7, 0.1)], [1, 0, 1], 10,
    )  # fmt: skip
    wheels = [
        ball((x, 0.32, z), (0.12, 0.32, 0.32), 2, 8, 5) for x in (-0.8, 0.8) for z in (-1.3, 1.3)
    ]
    paint = rng.choice([20.0, 60, 120, 180, 235]) * rng.uniform(0.85, 1.1, 3)
    colours = np.array([paint, (30, 34, 40), (18, 18, 18)], np.float32)
    return Prop(join([body, cabin, *wheels]), colours, 2.2, NO_SEATS)


def rail(rng: Rng) -> Prop:
    """A balustrade or crowd barrier."""
    length, h = rng.uniform(2, 6), rng.uniform(0.9, 1.1)
    parts = [box((0, h, 0), (length, 0.06, 0.06), 0)]
    parts += [
        box((x, h / 2, 0), (0.04, h, 0.04), 0) for x in np.arange(-length / 2, length / 2, 0.35)
    ]
    return Prop(join(parts), tones(rng, 1), length / 2, NO_SEATS)


def escalator(rng: Rng) -> Prop:
    """Steps between two slanted sides, rising away or along."""
    rise, run, wide = 2.6, rng.uniform(4.0, 5.5), rng.uniform(0.9, 1.4)
    t = (np.arange(9) + 0.5) / 9
    parts = [
        box((0, rise * s / 2, run * (s - 0.5)), (wide, rise * s + 0.05, run / 9), 0) for s in t
    ]
    for x in (-wide / 2, wide / 2):
        low, high = (x, 0.5, -run / 2), (x, rise + 0.5, run / 2)
        parts.append(tube([low, high], [(0.06, 0.5), (0.06, 0.5)], 1, 6))
        parts.append(tube([(x, 1.0, -run / 2), (x, rise + 1, run / 2)], (0.07, 0.07), 2, 6))
    return Prop(join(parts), tones(rng, 3), run / 2, NO_SEATS)


def stand(rng: Rng) -> Prop:
    """An advertising stand, a poster on a foot."""
    w, h = rng.uniform(0.5, 1.0), rng.uniform(1.2, 2.0)
    mesh = join([box((0, h / 2 + 0.1, 0), (w, h, 0.08), 0), box((0, 0.05, 0), (w, 0.1, 0.5), 1)])
    colours = np.concatenate([rng.uniform(20, 245, (1, 3)), tones(rng, 1)]).astype(np.float32)
    return Prop(mesh, colours, 0.5, NO_SEATS)


def pigeon(rng: Rng) -> Prop:
    """A bird, or a dog if it is bigger. Animals are not counted."""
    big = rng.random() < 0.3
    size = 3.0 if big else 1.0
    parts = [
        ball((0, 0.12 * size, 0), (0.05 * size, 0.06 * size, 0.13 * size), 0, 7, 5),
        ball((0, 0.2 * size, 0.13 * size), np.full(3, 0.035 * size), 0, 6, 5),
    ]
    parts += [
        box((x, 0.05 * size, 0), (0.02 * size, 0.1 * size, 0.1 * size), 0) for x in (-0.06, 0.06)
    ]
    return Prop(join(parts), tones(rng, 1, 30, 130), 0.15, NO_SEATS)


def balloons(rng: Rng) -> Prop:
    spots = rng.normal((0, 2, 0), (0.2, 0.25, 0.2), (int(rng.integers(1, 6)), 3))
    parts = [ball(spot, (0.13, 0.16, 0.13), m, 8, 6) for m, spot in enumerate(spots)]
    return Prop(join(parts), rng.uniform(30, 240, (6, 3)).astype(np.float32), 0.3, NO_SEATS)


def mannequin(rng: Rng) -> Prop:
    """A dressed doll or a statue on a base. It looks like a person and is not counted."""
    body = people.Body(rng.uniform(1.7, 1.85), 0.9, False, "bald", "trousers", "plain", "none")
    mesh, _ = people.person(body, people.standing(rng))
    colours = sprites.outfit(rng)
    colours[[Part.SKIN, Part.HAIR, Part.HAND]] = rng.uniform(150, 235)
    if rng.random() < 0.5:
        colours[:] = tones(rng, 1, 60, 210)
        mesh = Mesh(mesh.quads * 1.25 + np.array([0, 0.8, 0], np.float32), mesh.material)
    base = box((0, 0.4, 0), (0.7, 0.8, 0.7), Part.FRAME)
    low = Mesh(base.quads * np.array([1, 0.1, 1], np.float32), base.material)
    tall = float(mesh.quads[..., 1].min()) > 0.4
    return Prop(join([mesh, base if tall else low]), colours, 0.6, NO_SEATS)


def rack(rng: Rng) -> Prop:
    """Coats on a rail."""
    length = rng.uniform(0.8, 2.4)
    parts = [box((0, 1.45, 0), (length, 0.04, 0.04), 0)]
    parts += [box((x * length / 2, 0.72, 0), (0.04, 1.45, 0.04), 0) for x in (-1, 1)]
    for x in np.arange(-length / 2 + 0.1, length / 2, rng.uniform(0.12, 0.3)):
        low = rng.uniform(0.35, 0.8)
        path = [(x, low, 0), (x, (low + 1.3) / 2, 0), (x, 1.3, 0), (x, 1.42, 0)]
        rings = [(0.07, 0.24), (0.06, 0.22), (0.06, 0.22), (0.02, 0.05)]
        parts.append(tube(path, rings, int(rng.integers(1, 6)), 8))
    colours = np.concatenate([tones(rng, 1), [sprites.cloth(rng, CLOTHES) for _ in range(5)]])
    return Prop(join(parts), colours.astype(np.float32), length / 2 + 0.2, NO_SEATS)


CLOTHES = (0.4, 0.3, 0.1, 0.2)

Maker = Callable[[Rng], Prop]

VARIANTS = 32


@cache
def stored(maker: Maker, k: int) -> Prop:
    """Returns variant k of a kind of thing, the same in every process."""
    name = [ord(letter) for letter in maker.__name__]
    return maker(np.random.default_rng([77, k, *name]))
