"""Pictures of people: index images by pitch and heading, coloured when they are used.

Sprite k is a pure function of k and the pitch bin. So a cache of sprites does not change the frame
of a seed.
"""

from dataclasses import dataclass
from enum import IntEnum
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from pretrain import people
from pretrain.mesh import CLEAR, LEVELS, Array, Mesh, join, paint, shade, turn
from pretrain.people import Part, Rng

DENSITY = 112.0
"""Sprite pixels per metre."""

PITCHES = 9
"""Bins of ten degrees of the view ray's angle below the horizontal."""

HEADINGS = 8
VARIANTS = 10


class Role(IntEnum):
    WALK = 0
    STAND = 1
    SIT = 2
    CHILD = 3
    PUSH = 4


@dataclass(frozen=True)
class Sprite:
    levels: tuple[NDArray[np.uint8], ...]
    """Index images of `material * 16 + shade` or CLEAR, each half as large as the one before."""
    foot: tuple[float, float]
    """Position of the ground under the person, pixels of the first level."""
    head: tuple[float, float, float]
    """Centre and radius of the head, pixels of the first level."""
    density: float
    """Pixels of the first level per metre."""


def library_sprite(role: Role, heading: float, variant: int, pitch: float) -> Sprite:
    """Returns the stored picture nearest to a heading (0 walks away) and pitch, in radians."""
    turn_bin = round(heading / (2 * np.pi / HEADINGS)) % HEADINGS
    pitch_bin = int(np.clip(np.degrees(pitch) // 10, 0, PITCHES - 1))
    return _stored(role, turn_bin, variant % VARIANTS, pitch_bin)


@cache
def _stored(role: Role, turn_bin: int, variant: int, pitch_bin: int) -> Sprite:
    rng = np.random.default_rng([71, role, turn_bin, variant])
    mesh, head = figure(rng, role)
    heading = (turn_bin + rng.uniform(-0.5, 0.5)) * 2 * np.pi / HEADINGS
    pitch = np.radians(pitch_bin * 10 + rng.uniform(2, 8))
    distance = 4 + 14 * (1 - pitch_bin / PITCHES) * rng.random()
    return draw(mesh, head, heading, float(pitch), distance, rng)


def figure(rng: Rng, role: Role) -> tuple[Mesh, Array]:
    """A random person of a role, and the head's centre."""
    body = people.random_body(rng, child=role == Role.CHILD)
    phase = rng.uniform(0, 2 * np.pi)
    match role:
        case Role.STAND:
            pose = people.standing(rng)
        case Role.SIT:
            pose = people.sitting(rng)
        case Role.PUSH:
            pose = people.pushing(rng, phase)
        case _:
            pose = people.walking(rng, phase)
    mesh, head = people.person(body, pose)
    return (join([mesh, people.pram(rng)]) if role == Role.PUSH else mesh), head


def draw(
    mesh: Mesh, head: Array, heading: float, pitch: float, distance: float, rng: Rng
) -> Sprite:
    """Draws a mesh seen from `distance` metres under `pitch`, with random folds in the cloth."""
    quads = mesh.quads @ turn(heading).T
    light = shade(quads) * rng.uniform(0.9, 1.08, len(quads))
    level = np.clip(np.rint(light * (LEVELS - 1)), 0, LEVELS - 1).astype(int)
    flat, depth = _look(quads, pitch, distance)
    spot, _ = _look((head @ turn(heading).T)[None], pitch, distance)
    foot, _ = _look(np.zeros((1, 3), np.float32), pitch, distance)
    low = flat.reshape(-1, 2).min(axis=0) - 1
    width, height = (int(v) for v in np.ceil(flat.reshape(-1, 2).max(axis=0) - low + 1))
    image = Image.new("L", (width, height), CLEAR)
    fill = (mesh.material.astype(int) * 16 + level).tolist()
    paint(ImageDraw.Draw(image), flat - low, depth.mean(axis=1), fill)
    x, y = (spot[0] - low).tolist()
    fx, fy = (foot[0] - low).tolist()
    index = np.array(image)
    levels = tuple(np.ascontiguousarray(index[::step, ::step]) for step in (1, 2, 4))
    return Sprite(levels, (fx, fy), (x, y, 0.105 * DENSITY), DENSITY)


def _look(points: Array, pitch: float, distance: float) -> tuple[Array, Array]:
    """Pixels (..., 2), y down, and depth (...,) of points (..., 3) around chest height."""
    y, z = points[..., 1] - 0.9, points[..., 2]
    c, s = np.cos(pitch), np.sin(pitch)
    depth = z * c - y * s
    size = DENSITY * distance / (distance + depth)
    return np.stack([points[..., 0] * size, -(y * c + z * s) * size], axis=-1), depth


def coloured(sprite: Sprite, colours: NDArray[np.uint32], scale: float = 1.0) -> Image.Image:
    """Returns the picture at `scale` up to 2 (1 is the first level), mode RGBa (premultiplied)."""
    fine = next((i for i in (2, 1) if scale * 1.4 * 2**i < 1), 0)
    index = sprite.levels[fine]
    height, width = index.shape
    raw = colours[index].view(np.uint8)
    picture = Image.frombuffer("RGBa", (width, height), raw, "raw", "RGBa", 0, 1)
    full = sprite.levels[0].shape
    size = max(round(full[1] * scale), 2), max(round(full[0] * scale), 2)
    return picture.resize(size, Image.Resampling.BILINEAR)


def palette(outfit: Array, contrast: float = 1.0) -> NDArray[np.uint32]:
    """Returns packed RGBa per index, (256,), from the materials' colours, (15, 3) in [0, 255]."""
    level = np.linspace(0.15, 1.35, 16, dtype=np.float32)
    level = 0.85 + (level - 0.85) * contrast
    colours = np.zeros((16, 16, 4), np.float32)
    colours[: len(outfit), :, :3] = outfit[:, None] * level[:, None] + 7 * level[:, None]
    colours[..., 3] = 255
    flat = np.clip(colours, 0, 255).astype(np.uint8).reshape(256, 4)
    flat[CLEAR] = 0
    return flat.view(np.uint32).ravel()


DARK = ((22, 22, 26), (34, 33, 36), (30, 34, 48), (44, 38, 34), (16, 16, 18), (52, 52, 56))
PLAIN = ((200, 196, 188), (176, 160, 136), (120, 120, 122), (92, 74, 60), (150, 148, 146),
         (226, 224, 220))  # fmt: skip
DENIM = ((44, 56, 84), (62, 78, 108), (88, 104, 132), (34, 42, 62))
BRIGHT = ((168, 30, 36), (196, 92, 132), (108, 48, 120), (40, 112, 66), (44, 96, 170),
          (214, 170, 60), (222, 110, 50), (90, 170, 190), (150, 26, 70))  # fmt: skip
SKIN = ((236, 196, 170), (224, 178, 148), (206, 160, 128), (176, 126, 92), (122, 82, 58),
        (82, 54, 40))  # fmt: skip
HAIR = ((24, 20, 18), (44, 32, 24), (74, 52, 34), (128, 92, 52), (176, 146, 98),
        (150, 148, 146), (206, 204, 200), (116, 46, 26))  # fmt: skip


def outfit(rng: Rng) -> Array:
    """Returns a random outfit: a colour per material, (15, 3)."""
    colour = np.zeros((15, 3), np.float32)
    top = cloth(rng, (0.46, 0.28, 0.08, 0.18))
    bottom = cloth(rng, (0.48, 0.14, 0.34, 0.04))
    skin = np.array(SKIN[min(int(rng.exponential(1.3)), len(SKIN) - 1)])
    bare = rng.random(2)
    colour[[Part.SKIN, Part.HAND]] = skin
    colour[Part.HAIR] = HAIR[min(int(rng.exponential(2.2)), len(HAIR) - 1)]
    colour[Part.TOP] = colour[Part.SLEEVE] = colour[Part.FOREARM] = top
    colour[Part.TRIM] = cloth(rng, (0.25, 0.5, 0.1, 0.15)) if rng.random() < 0.6 else top
    colour[Part.BOTTOM] = colour[Part.SHIN] = bottom
    colour[Part.SKIRT] = top if rng.random() < 0.6 else bottom
    if bare[0] < 0.35:
        colour[Part.FOREARM] = skin
    if bare[0] < 0.08:
        colour[Part.SLEEVE] = skin
    if bare[1] < 0.1:
        colour[Part.SHIN] = skin
    colour[Part.SHOE] = cloth(rng, (0.75, 0.2, 0.0, 0.05))
    colour[Part.BAG] = cloth(rng, (0.45, 0.3, 0.05, 0.2))
    colour[Part.HAT] = cloth(rng, (0.5, 0.2, 0.1, 0.2))
    colour[Part.FRAME] = cloth(rng, (0.7, 0.3, 0.0, 0.0))
    colour[Part.FABRIC] = cloth(rng, (0.55, 0.15, 0.1, 0.2))
    return colour


def cloth(rng: Rng, shares: tuple[float, float, float, float]) -> Array:
    """A colour, (3,), dark, plain, denim or bright with the given odds, jittered."""
    family = (DARK, PLAIN, DENIM, BRIGHT)[rng.choice(4, p=shares)]
    colour = np.array(family[rng.integers(len(family))], np.float32)
    colour += (colour.mean() - colour) * rng.uniform(0, 0.5)
    return np.clip(colour * rng.uniform(0.7, 1.25) + rng.normal(0, 6, 3), 4, 250).astype(np.float32)
