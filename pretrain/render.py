"""Renders frames of crowds like those of a surveillance camera, with the number of people.

`render(seed)` is a pure function of the seed. Caches only make it faster.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from pretrain import crowd, effects, lens, scenes, sprites
from pretrain.camera import NEAR, Camera
from pretrain.crowd import Person
from pretrain.mesh import Array, Mesh, paint, shade
from pretrain.props import Prop
from pretrain.scenes import Scene

SEEN = 0.3
"""Least visible share of the body to count a person whose head is hidden or outside."""

HEAD_SEEN = 0.35
"""Least visible share of the head to count any other person."""

OWNER_STEP = 2
"""Frame pixels per pixel of the owner image, in each direction."""

SHADOW_STEP = 4

HIDDEN = 0
"""Value of owner pixels without a person. Person i has the value i + 1."""

MOST = 250


@dataclass(frozen=True)
class Rendered:
    image: NDArray[np.uint8]
    """(height, width, 3)"""
    heads: NDArray[np.float32]
    """(people, 2): x and y in pixels of all counted people: inside the frame, visible enough."""
    visible: NDArray[np.float32]
    """(people,): visible share of the body, in (0, 1]."""

    @property
    def count(self) -> int:
        return len(self.heads)


@dataclass(frozen=True)
class Figure:
    """A person's picture, ready to paste."""

    picture: Image.Image
    """RGBA."""
    cover: Image.Image
    """The pixels of the owner image that it covers, mode 1."""
    corner: tuple[int, int]
    """Top left in the frame."""
    foot: tuple[float, float]
    """Frame pixels."""
    head: tuple[float, float, float]
    """Centre and radius, frame pixels."""


def render(seed: int, size: tuple[int, int] = (640, 480)) -> Rendered:
    rng = np.random.default_rng([7, seed])
    people = crowd.random_count(rng)
    scene = scenes.random_scene(rng, size, people)
    persons = crowd.populate(rng, scene, people)[:MOST]
    figures = figures_of(persons, scene.camera)
    image, owner = compose(scene, persons, figures)
    heads, areas = outlines(figures)
    if rng.random() < 0.3:
        bulge = rng.uniform(0.02, 0.2)
        image, owner = lens.bend(image, bulge), lens.bend(owner, bulge)
        heads, areas = lens.bend_heads(heads, areas, size, bulge)
    heads, visible = counted(heads, areas, owner)
    return Rendered(np.asarray(effects.degrade(rng, image)), heads, visible)


@cache
def _palette(number: int) -> NDArray[np.uint32]:
    rng = np.random.default_rng([75, number])
    return sprites.palette(sprites.outfit(rng), rng.uniform(0.6, 0.95))


def figures_of(persons: Sequence[Person], camera: Camera) -> list[Figure]:
    """Returns the library's pictures of people, as the camera sees them at their places."""
    stances = stances_at(camera, np.array([(p.x, p.z) for p in persons]))
    figures = []
    for person, stance in zip(persons, stances, strict=True):
        heading = person.heading - stance.azimuth
        sprite = sprites.library_sprite(person.role, heading, person.variant, stance.pitch)
        scale = stance.density / sprite.density * person.scale
        figures.append(stand(sprite, _palette(person.outfit), stance, scale))
    return figures


@dataclass(frozen=True)
class Stance:
    """How the camera sees a point on the ground and a person who stands there."""

    foot: tuple[float, float]
    """Frame pixels."""
    density: float
    """Pixels per metre at chest height."""
    lean: float
    """Radians clockwise from upright in the picture."""
    pitch: float
    """Angle of the view ray below the horizontal, radians."""
    azimuth: float
    """Angle of the view ray from straight ahead, radians."""


def stances_at(camera: Camera, spots: Array) -> list[Stance]:
    """Returns one stance per ground point, (n, 2)."""
    x, z = spots.reshape(-1, 2).T
    heights = np.broadcast_to(np.array([0, 0.9, 1.7])[:, None], (3, len(x)))
    column = np.stack([np.broadcast_to(x, heights.shape), heights,
                       np.broadcast_to(z, heights.shape)], axis=-1)  # fmt: skip
    pixels, depth = camera.project(column)
    rise = pixels[2] - pixels[0]
    rows = np.stack(
        [
            pixels[0, :, 0],
            pixels[0, :, 1],
            camera.focal / np.maximum(depth[1], 0.5),
            np.arctan2(rise[:, 0], -rise[:, 1]),
            np.arctan2(camera.above - 0.9, np.hypot(x, z)),
            np.arctan2(x, z),
        ],
        axis=1,
    )
    return [Stance((fx, fy), *rest) for fx, fy, *rest in rows.tolist()]


def stand(
    sprite: sprites.Sprite, colours: NDArray[np.uint32], stance: Stance, scale: float
) -> Figure:
    """Returns a sprite with colours, size and lean, its foot at the stance's foot."""
    picture = sprites.coloured(sprite, colours, scale)
    middle = np.array(picture.size) / 2
    spin = np.eye(2)
    if abs(stance.lean) > 0.04:
        c, s = np.cos(stance.lean), np.sin(stance.lean)
        spin = np.array([[c, -s], [s, c]])
        angle = -np.degrees(stance.lean)
        picture = picture.rotate(angle, Image.Resampling.BILINEAR, expand=True)
    marks = np.array([sprite.foot, sprite.head[:2]]) * scale - middle
    down, up = marks @ spin.T + np.array(picture.size) / 2
    corner = np.rint(stance.foot - down)
    x, y = (corner + up).tolist()
    left, top = corner.astype(int).tolist()
    head = x, y, sprite.head[2] * scale
    alpha = picture.getchannel("a")
    cover = alpha.reduce(OWNER_STEP).convert("1", dither=Image.Dither.NONE)
    return Figure(picture.convert("RGBA"), cover, (left, top), stance.foot, head)


def compose(
    scene: Scene, persons: list[Person], figures: list[Figure]
) -> tuple[Image.Image, Image.Image]:
    """Returns the clean picture, and the owner of each pixel of the reduced grid (mode L)."""
    image = cast_shadows(scene, persons)
    reduced = image.width // OWNER_STEP, image.height // OWNER_STEP
    owner = Image.new("L", reduced, HIDDEN)
    if scene.light.gloss > 0.01:
        for figure in figures:
            _mirror(image, figure, scene.light.gloss)
    items: list[tuple[float, int, Prop | Figure]] = [
        (float(np.hypot(*prop.at)), 0, prop) for prop in scene.props
    ]
    items += [
        (float(np.hypot(p.x, p.z)), i + 1, f)
        for i, (p, f) in enumerate(zip(persons, figures, strict=True))
    ]
    for _, number, item in sorted(items, key=lambda entry: -entry[0]):
        if isinstance(item, Prop):
            draw_prop(image, owner, item, scene.camera)
        else:
            _paste(image, owner, item, number)
    return image, owner


def cast_shadows(scene: Scene, persons: list[Person]) -> Image.Image:
    """Returns the backdrop with soft shadows of people and things on the floor."""
    camera, light = scene.camera, scene.light
    layer = Image.new("L", (camera.width // SHADOW_STEP, camera.height // SHADOW_STEP), 255)
    pen = ImageDraw.Draw(layer)
    cast, contact = int(255 * (1 - light.shadow)), int(255 * (0.72 - light.shadow / 2))
    spots = [(p.x, p.z, 0.2, 1.6 * p.scale) for p in persons]
    spots += [(*p.at, p.reach * 0.55, 0.8) for p in scene.props]
    x, z, radius, tall = np.array(spots, np.float32).reshape(-1, 4).T
    for outline in _post_shadows(scene, x, z, radius, tall):
        pen.polygon(outline, fill=cast)
    for outline in _post_shadows(scene, x, z, radius * 1.1, tall * 0):
        pen.polygon(outline, fill=contact)
    blur = light.soft * camera.width / 640 / SHADOW_STEP
    layer = layer.filter(ImageFilter.GaussianBlur(blur)).resize(
        scene.backdrop.size, Image.Resampling.BILINEAR
    )
    return ImageChops.multiply(scene.backdrop, layer.convert("RGB"))


def _post_shadows(
    scene: Scene, x: Array, z: Array, radius: Array, tall: Array
) -> list[list[float]]:
    """Returns the outlines of the shadows of upright posts, as flat x y lists.

    Arguments are (n,), in metres. A shadow is the hull of a disc and its shifted copy, in halves.
    """
    angle = np.linspace(0, 2 * np.pi, 12, endpoint=False, dtype=np.float32)
    dx, dz = scene.light.cast
    ahead = np.sin(angle) * dx + np.cos(angle) * dz > 0
    long = tall[:, None] * ahead
    ground = np.stack(
        [
            x[:, None] + np.sin(angle) * radius[:, None] + dx * long,
            np.zeros((len(x), 12), np.float32),
            z[:, None] + np.cos(angle) * radius[:, None] + dz * long,
        ],
        axis=-1,
    )
    pixels, depth = scene.camera.project(ground)
    near = depth.min(axis=1) > NEAR
    flat: list[list[float]] = (pixels[near] / SHADOW_STEP).reshape(-1, 24).tolist()
    return flat


def _mirror(image: Image.Image, figure: Figure, gloss: float) -> None:
    """Draws a faint upside-down image below the feet, blurred by halving and doubling."""
    picture = figure.picture
    small = max(picture.width // 2, 1), max(picture.height // 4, 1)
    flipped = picture.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    soft = flipped.resize(small, Image.Resampling.BOX).resize(
        picture.size, Image.Resampling.BILINEAR
    )
    alpha = soft.getchannel("A")
    mask = Image.blend(Image.new("L", alpha.size), alpha, gloss)
    below = figure.foot[1] - figure.corner[1]
    image.paste(soft, (figure.corner[0], int(figure.foot[1] + below - picture.height)), mask)


def _paste(image: Image.Image, owner: Image.Image, figure: Figure, number: int) -> None:
    image.paste(figure.picture, figure.corner, figure.picture)
    x, y = figure.corner
    owner.paste(number, (x // OWNER_STEP, y // OWNER_STEP), figure.cover)


def draw_prop(image: Image.Image, owner: Image.Image, prop: Prop, camera: Camera) -> None:
    """Paints a thing on the picture and removes the owner of the pixels behind it."""
    mesh = prop.mesh
    corners, depth = camera.project(mesh.quads)
    ahead = depth.min(axis=1) > 0.4
    corners, depth = corners[ahead], depth[ahead]
    if not len(corners):
        return
    colours = prop.colours[mesh.material[ahead]] * _brightness(mesh, ahead)[:, None]
    fill = [tuple(c) for c in np.clip(colours, 0, 255).astype(int).tolist()]
    _paint_smooth(image, corners, depth.mean(axis=1), fill)
    hidden = [HIDDEN] * len(fill)
    paint(ImageDraw.Draw(owner), corners / OWNER_STEP, depth.mean(axis=1), hidden)


def _paint_smooth(
    image: Image.Image, corners: Array, depth: Array, fill: list[tuple[int, ...]]
) -> None:
    """`paint` at twice the resolution, so that edges are not jagged."""
    flat = corners.reshape(-1, 2)
    low = np.clip(np.floor(flat.min(axis=0)), 0, image.size).astype(int)
    high = np.clip(np.ceil(flat.max(axis=0)), 0, image.size).astype(int)
    if (high <= low).any():
        return
    box = (int(low[0]), int(low[1]), int(high[0]), int(high[1]))
    patch = image.crop(box).resize((2 * (box[2] - box[0]), 2 * (box[3] - box[1])), 0)
    paint(ImageDraw.Draw(patch), (corners - low) * 2, depth, fill)
    image.paste(patch.reduce(2), box)


def _brightness(mesh: Mesh, kept: NDArray[np.bool_]) -> Array:
    light = 0.25 + 0.95 * shade(mesh.quads[kept])
    wear = 1 + 0.08 * np.sin(np.arange(len(light)) * 12.9898)
    return np.asarray(light * wear, np.float32)


def outlines(figures: Sequence[Figure]) -> tuple[Array, Array]:
    """Returns heads, (n, 3): x, y, radius in pixels; and whole areas, (n,), in owner pixels."""
    heads = np.array([figure.head for figure in figures], np.float32).reshape(-1, 3)
    areas = [np.count_nonzero(np.asarray(figure.cover)) for figure in figures]
    return heads, np.maximum(np.array(areas, np.float32), 1)


def counted(heads: Array, areas: Array, owner: Image.Image) -> tuple[Array, Array]:
    """Returns heads, (n, 2), and visible shares, (n,), of people that an annotator would mark."""
    pixels = np.asarray(owner)
    shown = np.bincount(pixels.ravel(), minlength=256)[1 : len(heads) + 1]
    shares = np.clip(shown / areas, 1e-3, 1).astype(np.float32)
    faces = np.array([_head_share(pixels == i + 1, head) for i, head in enumerate(heads)])
    kept = (faces > HEAD_SEEN) | (shares > SEEN) if len(heads) else np.zeros(0, bool)
    edge = np.array(owner.size, np.float32) * OWNER_STEP - 1
    return np.clip(heads[kept, :2], 0, edge), shares[kept]


def _head_share(own: NDArray[np.bool_], head: Array) -> float:
    """Returns the share of a square around the head that shows its owner; 0 outside the frame."""
    x, y, radius = (float(v) / OWNER_STEP for v in head)
    half = max(radius * 0.6, 0.5)
    rows = slice(max(int(y - half), 0), max(int(y + half) + 1, 0))
    columns = slice(max(int(x - half), 0), max(int(x + half) + 1, 0))
    patch = own[rows, columns]
    whole = (int(y + half) + 1 - int(y - half)) * (int(x + half) + 1 - int(x - half))
    return float(patch.sum()) / max(whole, 1)
