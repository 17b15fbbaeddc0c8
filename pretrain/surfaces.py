"""Procedural floors and shop fronts: cached pictures, each a pure function of a number."""

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from pretrain import sprites
from pretrain.camera import Camera
from pretrain.mesh import Array
from pretrain.people import Rng

FLOORS = 96
FRONTS = 96
TILE = 512
"""Side of a floor texture, pixels; it repeats."""

MIPS = 5


@dataclass(frozen=True)
class Floor:
    atlas: NDArray[np.uint32]
    """Packed pixels of all mip levels in one array."""
    starts: NDArray[np.int32]
    """Start of each level in `atlas`, (MIPS,)."""
    metres: float
    """Side of the texture on the ground."""


def noise(rng: Rng, size: int, cells: int) -> Array:
    """Returns smooth periodic noise, (size, size), with mean near 0 and deviation near 1."""
    grid = rng.normal(size=(cells, cells)).astype(np.float32)
    grid = np.pad(grid, ((0, 1), (0, 1)), mode="wrap")
    image = Image.fromarray(grid).resize((size + size // cells,) * 2, Image.Resampling.BICUBIC)
    return np.asarray(image)[:size, :size]


@cache
def floor(k: int) -> Floor:
    rng = np.random.default_rng([72, k])
    colour = _floor_colour(rng)
    kind = rng.integers(6)
    gray = sum(
        noise(rng, TILE, c) * w for c, w in ((4, 0.02), (16, 0.015), (64, 0.015), (256, 0.02))
    )
    relief = np.asarray(gray) * rng.uniform(0.3, 1.6) + 1
    tone: Array = relief[..., None] * colour
    if kind < 4:
        tone = _tiles(rng, tone, colour)
    elif kind == 4:
        tone = _carpet(rng, tone)
    return _mips(np.clip(tone, 0, 255).astype(np.uint8), rng.uniform(3, 7))


def _floor_colour(rng: Rng) -> Array:
    warm = rng.normal(0, 1)
    value = rng.uniform(60, 225)
    colour = value * (1 + np.array([0.10, 0.02, -0.12]) * warm * 0.7)
    if rng.random() < 0.12:
        colour = colour * rng.uniform(0.7, 1.2, 3)
    return np.clip(colour, 20, 235).astype(np.float32)


def _tiles(rng: Rng, tone: Array, colour: Array) -> Array:
    """Joints, and a tone per tile: plain, random, checkered or striped."""
    across = int(rng.choice([4, 6, 8, 12, 16, 24]))
    down = across if rng.random() < 0.7 else max(across // 4, 2)
    y, x = np.mgrid[0:TILE, 0:TILE]
    row, column = y * down // TILE, x * across // TILE
    style = rng.integers(4)
    pattern = {
        0: np.zeros((down, across)),
        1: rng.normal(size=(down, across)) * 0.05,
        2: np.indices((down, across)).sum(axis=0) % 2 * rng.uniform(-0.35, 0.25),
        3: (np.arange(across) % 4 == 0)[None] * np.ones((down, 1)) * rng.uniform(-0.3, 0.3),
    }[int(style)]
    tone = tone * (1 + pattern[row, column][..., None])
    width = rng.uniform(0.8, 3.0)
    joint = (x * across % TILE < width * across) | (y * down % TILE < width * down)
    return np.asarray(np.where(joint[..., None], tone * rng.uniform(0.6, 1.12), tone))


def _carpet(rng: Rng, tone: Array) -> Array:
    """Blotches or rings in a second colour."""
    blotch = noise(rng, TILE, int(rng.choice([8, 24, 64]))) > rng.uniform(0.0, 1.2)
    second = tone * rng.uniform(0.6, 1.3) * rng.uniform(0.85, 1.15, 3)
    return np.asarray(np.where(blotch[..., None], second, tone))


def _mips(image: NDArray[np.uint8], metres: float) -> Floor:
    picture = Image.fromarray(image)
    levels = [picture.resize((TILE >> i,) * 2, Image.Resampling.BOX) for i in range(MIPS)]
    packed = []
    for level in levels:
        rgb = np.asarray(level).astype(np.uint32)
        packed.append((rgb[..., 0] | rgb[..., 1] << 8 | rgb[..., 2] << 16).ravel())
    starts = np.cumsum([0, *[len(p) for p in packed[:-1]]]).astype(np.int32)
    return Floor(np.concatenate(packed), starts, float(metres))


def paint_floor(camera: Camera, texture: Floor, yaw: float) -> Image.Image:
    """Paints the frame as floor, turned by `yaw`. Pixels above the horizon are meaningless."""
    inverse = np.linalg.inv(camera.matrix[:, [0, 2, 3]].astype(np.float64))
    c, s = np.cos(yaw), np.sin(yaw)
    inverse[:2] = np.array([[c, -s], [s, c]]) @ inverse[:2] * (TILE / texture.metres)
    rows = np.arange(camera.height)[:, None] + 0.5
    columns = np.arange(camera.width)[None] + 0.5
    x, z, w = ((form[0] * columns + (form[1] * rows + form[2])).astype(np.float32)
               for form in inverse)  # fmt: skip
    depth = 1 / np.maximum(w, 1e-3)
    step = depth * depth * np.float32(TILE / texture.metres / (camera.focal * camera.above))
    level = sum((step > np.float32(t)).view(np.int8) for t in (1.0, 2.5, 5.0, 10.0))
    level = np.asarray(level).astype(np.int32)
    mask = (TILE >> level) - 1
    u = (x * depth).astype(np.int32) >> level & mask
    v = (z * depth).astype(np.int32) >> level & mask
    packed = texture.atlas[texture.starts[level] + v * (mask + 1) + u]
    return Image.frombuffer("RGBX", (camera.width, camera.height), packed.tobytes()).convert("RGB")


@cache
def front(k: int, halvings: int = 0) -> Image.Image:
    """Returns a wall, 12 m by 4 m at 64 pixels per metre: shop windows, doors, signs, posters."""
    if halvings:
        return front(k).reduce(2**halvings)
    rng = np.random.default_rng([73, k])
    image = _plaster(rng)
    left = int(rng.uniform(-60, 20))
    while left < 768:
        width = int(rng.uniform(60, 330))
        span = max(left + 4, 0), min(left + width, 768) - 4
        if span[1] - span[0] > 40:
            (_shop if rng.random() < 0.72 else _blank)(rng, image, *span)
        left += width
    ImageDraw.Draw(image).rectangle((0, 248, 768, 256), fill=_rgb(tint(rng, 15, 140)))
    return image.filter(ImageFilter.BoxBlur(0.7))


def tint(rng: Rng, low: float, high: float, vivid: float = 0.12) -> Array:
    """Returns a colour, (3,): strong with probability `vivid`, else warm or cool grey."""
    spread = 0.45 if rng.random() < vivid else 0.025
    warm = rng.normal(0, 1) * np.array([0.10, 0.02, -0.12])
    colour = rng.uniform(low, high) * (1 + warm + rng.normal(0, spread, 3))
    return np.clip(colour, 5, 252).astype(np.float32)


def _plaster(rng: Rng) -> Image.Image:
    """Plain wall, lighter towards the top, with faint blotches."""
    fall = np.linspace(1.08, 0.88, 256)[:, None, None] * tint(rng, 60, 225)
    blotch = noise(rng, 768, 12)[:256, :, None] * rng.uniform(0, 6)
    return Image.fromarray(np.clip(fall + blotch, 0, 255).astype(np.uint8))


def _shop(rng: Rng, image: Image.Image, left: int, right: int) -> None:
    """Paints a window or an open front: blurred interior, then frames, glare and a sign."""
    top, sill = 70, int(rng.choice([252, 252, 236, 215]))
    inside = _interior(rng, right - left, sill - top)
    if rng.random() < 0.25:
        _mannequin(rng, inside)
    image.paste(inside, (left, top))
    draw = ImageDraw.Draw(image, "RGBA")
    frame = (*_rgb(tint(rng, 10, 200)), 255)
    for x in np.arange(left, right, rng.uniform(40, 130)):
        draw.line((x, top, x, sill), fill=frame, width=int(rng.integers(1, 4)))
    draw.rectangle((left, top, right, sill), outline=frame, width=2)
    for _ in range(int(rng.integers(0, 4))):
        x, w = rng.uniform(left, right), rng.uniform(5, 40)
        glare = (255, 255, 255, int(rng.uniform(10, 60)))
        points = [(x, top), (x + w, top), (x + w - 40, sill), (x - 40, sill)]
        draw.polygon([(float(np.clip(px, left, right)), py) for px, py in points], fill=glare)
    _sign(rng, draw, left, right)


def _interior(rng: Rng, width: int, height: int) -> Image.Image:
    """A lit room out of focus: shelves of goods, hanging clothes, spot lights."""
    glow = tint(rng, 25, 245, 0.08)
    fall = np.linspace(rng.uniform(0.9, 1.25), rng.uniform(0.5, 1.05), height)
    grid = np.clip(fall[:, None, None] * glow * np.ones((1, width, 1)), 0, 255)
    room = Image.fromarray(grid.astype(np.uint8))
    draw = ImageDraw.Draw(room)
    palette = [tint(rng, 20, 235, 0.3) * 0.6 + glow * 0.4 for _ in range(5)]
    for y in np.arange(height * 0.25, height, rng.uniform(14, 45)):
        if rng.random() < 0.4:
            continue
        start, stop = np.sort(rng.uniform(-20, width + 20, 2))
        x = start
        while x < stop:
            w, h = rng.uniform(2, 12), rng.uniform(6, 30)
            draw.rectangle((x, y, x + w, y + h), fill=_rgb(palette[rng.integers(5)]))
            x += w + rng.uniform(0, 8)
    for _ in range(int(rng.integers(0, 14))):
        x, y, r = rng.uniform(0, width), rng.uniform(0, height * 0.4), rng.uniform(1, 4)
        draw.ellipse((x - r, y - r, x + r, y + r), fill=(255, 252, 240))
    return room.filter(ImageFilter.GaussianBlur(rng.uniform(0.6, 2.5)))


def _sign(rng: Rng, draw: ImageDraw.ImageDraw, left: int, right: int) -> None:
    board = tint(rng, 10, 245, 0.3)
    draw.rectangle((left, 24, right, 68), fill=_rgb(board))
    ink = _rgb(np.where(board.mean() > 128, 15, 245) + rng.normal(0, 30, 3))
    letters = "".join(rng.choice(list("ABCDEFGHIKLMNOPRSTUVXYZ& "), int(rng.integers(3, 12))))
    draw.text((rng.uniform(left, (left + right) / 2), 28), letters, fill=ink, font_size=30)


def _mannequin(rng: Rng, room: Image.Image) -> None:
    """Paints a figure behind the glass or a life-size picture of a person. It is never counted."""
    sprite = sprites.library_sprite(sprites.Role.STAND, np.pi, int(rng.integers(99)), 0.1)
    colours = sprites.outfit(rng)
    if rng.random() < 0.6:
        colours[[0, 1, 14]] = rng.uniform(60, 235)
    scale = rng.uniform(0.5, 0.62) if rng.random() < 0.7 else rng.uniform(0.7, 1.0)
    picture = sprites.coloured(sprite, sprites.palette(colours), scale).convert("RGBA")
    x = int(rng.uniform(0, max(room.width - picture.width, 1)))
    if picture.width < room.width and picture.height < room.height:
        room.paste(picture, (x, room.height - picture.height - int(rng.uniform(0, 14))), picture)


def _blank(rng: Rng, image: Image.Image, left: int, right: int) -> None:
    """A poster like an unsharp photograph, a door, panels or nothing."""
    draw = ImageDraw.Draw(image)
    style = rng.random()
    if style < 0.35:
        hues = np.array([tint(rng, 15, 240, 0.3) for _ in range(12)])
        blur = Image.fromarray(hues.reshape(4, 3, 3).astype(np.uint8))
        gray = Image.fromarray(np.full((4, 3, 3), rng.uniform(30, 220)).astype(np.uint8))
        photo = Image.blend(gray, blur, rng.uniform(0.2, 0.8))
        image.paste(photo.resize((right - left, 150), Image.Resampling.BICUBIC), (left, 70))
    elif style < 0.6:
        draw.rectangle((left, 0, right, 255), fill=_rgb(tint(rng, 30, 235)))
    elif style < 0.8:
        draw.rectangle((left, 110, min(left + 60, right), 255), fill=_rgb(tint(rng, 20, 180)))


def _rgb(colour: Any) -> tuple[int, int, int]:
    r, g, b = (int(np.clip(v, 0, 255)) for v in colour)
    return r, g, b
