"""The project's sample data set: one camera, 300 frames about 2 s apart, and their counts.

    python -m pretrain.sample OUT     writes OUT/frames/seq_%06d.jpg, labels.csv and points.csv

Pretraining never shows this camera. TILT lies below scenes.MIN_TILT, and GLOSS above
scenes.MAX_GLOSS. A row of MANNEQUINS fills a window, where `surfaces.front` puts one at most.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from llava_dvc.data.labels import write_labels
from llava_dvc.data.points import write_points
from pretrain import backdrop, effects, people, props, sprites, surfaces
from pretrain.camera import Camera, paste_plane
from pretrain.crowd import Person
from pretrain.mesh import Array
from pretrain.people import Pose, Rng
from pretrain.props import Prop
from pretrain.render import (
    HIDDEN,
    Figure,
    Stance,
    compose,
    counted,
    draw_prop,
    outlines,
    stances_at,
    stand,
)
from pretrain.scenes import Light, Scene
from pretrain.sprites import Role

SEED = 20
FRAMES = 300
SIZE = (640, 480)
TILT = 9.0
"""Degrees."""
GLOSS = 0.42
MANNEQUINS = 9
SIDE = 7.0
"""Half of the width of the mall's street, metres."""
FAR = 34.0
"""Metres to the end wall."""
WINDOW = 8.5, 18.0
"""Where the show window begins and ends along the left wall, metres."""
QUALITY = 72
STEP = 2.0
"""Seconds from one frame to the next."""
STRIDE = 4.2
"""Radians of the walking cycle per metre."""


@dataclass(frozen=True)
class Visit:
    """One person's path through the picture."""

    times: Array
    """(points,) in frames."""
    spots: Array
    """(points, 2): x and z, metres, at those times."""
    facing: float
    """Heading while not walking."""
    resting: Role
    """Pose while not walking."""
    identity: int
    """Seed of body and clothes."""
    child: bool

    def at(self, frame: float) -> tuple[float, float]:
        x, z = (float(np.interp(frame, self.times, self.spots[:, i])) for i in (0, 1))
        return x, z

    def here(self, frame: float) -> bool:
        return bool(self.times[0] <= frame < self.times[-1])


def mall(rng: Rng) -> Scene:
    """The street with its shops, a kiosk, benches, plants and a window full of mannequins."""
    camera = Camera(*SIZE, 560.0, 4.3, float(np.radians(TILT)), 0.0)
    things = [
        props.planter(rng).placed(-0.6, 11.0, 0.2),
        props.bench(rng).placed(0.3, 14.5, np.pi / 2),
        props.kiosk(rng).placed(1.0, 19.0, 0.1),
        props.bench(rng).placed(-0.4, 24.0, 0.0),
        props.palm(rng).placed(0.9, 28.0, 0.0),
        props.bin_(rng).placed(5.9, 12.0, 0.0),
        props.stand(rng).placed(-5.6, 21.0, 0.6),
    ]
    light = Light((0.1, -0.25), 0.15, 4.0, GLOSS)
    bounds = np.array([-SIDE, SIDE, -2.0, FAR], np.float32)
    image = _backdrop(rng, camera)
    _show_window(rng, image, camera)
    return Scene(camera, image, things, light, 0.0, bounds)


def _backdrop(rng: Rng, camera: Camera) -> Image.Image:
    """Paints the floor with the walls' mirror image, then end wall, ceiling and walls."""
    plain = surfaces.paint_floor(camera, surfaces.floor(7), 0.3)
    mirrored = plain.copy()
    first = int(rng.integers(surfaces.FRONTS))
    tone = np.full(3, 205.0)
    _shell(mirrored, camera, first, tone, -1)
    mirrored = mirrored.filter(ImageFilter.BoxBlur((1, 5)))
    image = Image.blend(plain, mirrored, GLOSS)
    backdrop.fill(image, camera, backdrop.disc(0, 19, 5.0), (120, 104, 92), 0.25)
    _shell(image, camera, first, tone, 1)
    return image


def _shell(image: Image.Image, camera: Camera, first: int, tone: Array, up: int) -> None:
    """End wall, ceiling, side walls; `up` is -1 for their mirror image below the floor."""
    high = 6.0 * up
    end = np.array([(-60, 0, FAR), (60, 0, FAR), (60, high, FAR), (-60, high, FAR)])
    roof = np.array([(-SIDE, high, -2), (SIDE, high, -2), (SIDE, high, FAR), (-SIDE, high, FAR)])
    backdrop.fill(image, camera, end, tone, 1.0)
    backdrop.fill(image, camera, roof, tone * 0.8, 1.0)
    for z in range(4, int(FAR), 4):
        for x in (-4.5, -1.0, 2.5):
            lamp = backdrop.slab(x, x + 2, z, z + 0.7) + np.array([0, high * 0.998, 0])
            backdrop.fill(image, camera, lamp, (250, 250, 244), 1.0)
    for x in (-SIDE, SIDE):
        side = np.array([(x, 0, -2), (x, 0, FAR), (x, high, FAR), (x, high, -2)])
        backdrop.fill(image, camera, side, tone * 0.9, 1.0)
    rise = np.array([0, 4.2 * up, 0])
    for i in range(3):
        paste_plane(
            image, camera, surfaces.front(first + i), (-12 + i * 12, 0, FAR), (12, 0, 0), rise
        )
    for i in reversed(range(3)):
        left, right = (surfaces.front((first + i * 3 + k) % surfaces.FRONTS) for k in (5, 11))
        paste_plane(image, camera, left, (-SIDE, 0, -2 + i * 12), (0, 0, 12), rise)
        paste_plane(image, camera, right, (SIDE, 0, 10 + i * 12), (0, 0, -12), rise)


def _show_window(rng: Rng, image: Image.Image, camera: Camera) -> None:
    """Mannequins on a low stage along the left wall, behind faintly shining glass."""
    glass, near, far = -SIDE + 1.0, *WINDOW
    stage = backdrop.slab(-SIDE, glass, near, far)
    backdrop.fill(image, camera, stage, (190, 186, 180), 1.0)
    nobody = Image.new("L", image.size, HIDDEN)
    for prop in sorted(mannequins(rng), key=lambda prop: -prop.at[1]):
        draw_prop(image, nobody, prop, camera)
    pane = np.array([(glass, 0, near), (glass, 0, far), (glass, 2.7, far), (glass, 2.7, near)])
    backdrop.fill(image, camera, pane, (214, 226, 236), 0.22)
    for z in np.linspace(near, far, 5):
        post = np.array(
            [(glass, 0, z), (glass, 0, z + 0.1), (glass, 2.7, z + 0.1), (glass, 2.7, z)]
        )
        backdrop.fill(image, camera, post, (70, 70, 74), 1.0)


def mannequins(rng: Rng) -> list[Prop]:
    """Bald figures in one pale colour, in a row behind the left wall's window line."""
    row = []
    for z in np.linspace(WINDOW[0] + 0.5, WINDOW[1] - 0.5, MANNEQUINS):
        body = people.Body(rng.uniform(1.7, 1.85), 0.85, False, "bald", "trousers", "plain", "none")
        mesh, _ = people.person(body, people.standing(rng))
        colours = sprites.outfit(rng)
        colours[[0, 1, 14]] = rng.uniform(170, 235)
        prop = Prop(mesh, colours, 0.3, props.NO_SEATS)
        row.append(prop.placed(-SIDE + 0.45, float(z), rng.uniform(1.0, 2.2)))
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path)
    write(parser.parse_args().out)


def write(out: Path) -> None:
    """Fill `out` with the frames, labels.csv and points.csv."""
    rng = np.random.default_rng(SEED)
    scene = mall(rng)
    visits = schedule(rng, scene)
    (out / "frames").mkdir(parents=True, exist_ok=True)
    points = {}
    for number in range(1, FRAMES + 1):
        data, heads = shoot(rng, scene, visits, number - 1)
        (out / "frames" / f"seq_{number:06d}.jpg").write_bytes(data)
        points[number] = np.round(heads, 1).tolist()
    write_labels(out / "labels.csv", {number: len(heads) for number, heads in points.items()})
    write_points(out / "points.csv", points)


def target(rng: Rng) -> Array:
    """Returns the wanted number of people, (FRAMES + 60,): busy and quiet times; 60 for warm-up."""
    t = np.arange(FRAMES + 60)
    start = rng.uniform(0, 2 * np.pi, 3)
    waves = sum(
        high * np.sin(2 * np.pi * t / period + s)
        for high, period, s in zip((10, 7, 7), (64, 33, 13), start, strict=True)
    )
    return np.asarray(np.clip(25 + waves, 2, 52), np.float32)


def schedule(rng: Rng, scene: Scene) -> list[Visit]:
    """Returns all visits. Groups enter while fewer people are there than wanted."""
    wished = target(rng)
    visits: list[Visit] = []
    free = {tuple(seat): -1e9 for prop in scene.props for seat in prop.seats.tolist()}
    for step, wish in enumerate(wished):
        frame = step - 60
        while sum(v.here(frame) for v in visits) < wish - 1:
            visits += _party(rng, frame, free)
    return visits


def _party(rng: Rng, frame: int, free: dict[tuple[float, ...], float]) -> list[Visit]:
    """Returns one to four people who enter together, may stop or sit down, and leave."""
    side = float(rng.choice([-1, 1]))
    start, end = _gate(rng, side), _gate(rng, side)
    pace = rng.uniform(0.8, 1.5) * STEP
    size = int(rng.choice([1, 2, 3, 4], p=(0.45, 0.36, 0.12, 0.07)))
    seats = [seat for seat, until in free.items() if until < frame]
    sits = bool(seats) and rng.random() < 0.16
    rest = rng.gamma(2.0, 8.0) if sits else rng.gamma(1.5, 5.0) * (rng.random() < 0.4)
    lane = np.array([side * rng.uniform(2.2, 5.6), rng.uniform(8, 30)])
    party = []
    for i in range(size):
        shift = rng.normal(0, 0.12, 2) + np.array([0.65 * (i - size / 2), rng.normal(0, 0.3)])
        stop, facing = lane + shift, float(rng.uniform(0, 2 * np.pi))
        if sits and seats:
            seat = seats.pop(int(rng.integers(len(seats))))
            stop, facing = np.array(seat[:2]), float(seat[2])
        spots = np.stack([start + shift, stop, stop, end + shift])
        legs = np.hypot(*np.diff(spots, axis=0).T) / pace
        times = frame + np.concatenate([[0], np.cumsum(legs + np.array([0, rest, 0]))])
        if sits:
            free[seat] = float(times[2])
        role = Role.SIT if sits else Role.STAND
        child = i > 0 and rng.random() < 0.25
        party.append(Visit(times, spots, facing, role, int(rng.integers(1 << 30)), child))
    return party


def _gate(rng: Rng, side: float) -> Array:
    """Returns a place to enter or leave: below the frame, at the far end, or at a shop door.

    It is mostly on the given side (-1 left, 1 right) of the things in the middle.
    """
    kind = rng.random()
    if kind < 0.35:
        return np.array([side * rng.uniform(1.8, 4.5), 3.5])
    if kind < 0.65:
        return np.array([side * rng.uniform(1.8, 5.5), FAR - 1])
    over = side if rng.random() < 0.8 else -side
    # The show window has no door.
    doors = [9.0, 15.0, 23.0, 29.0] if over > 0 else [21.0, 26.0, 31.0]
    return np.array([over * (SIDE + 0.4), rng.choice(doors)])


def shoot(rng: Rng, scene: Scene, visits: Sequence[Visit], frame: int) -> tuple[bytes, Array]:
    """Returns the JPEG of one frame and the visible people's heads, (people, 2), in pixels."""
    present = [visit for visit in visits if visit.here(frame)]
    persons, figures = [], []
    stances = stances_at(scene.camera, np.array([visit.at(frame) for visit in present]))
    for visit, stance in zip(present, stances, strict=True):
        x, z = visit.at(frame)
        persons.append(Person(x, z, 0.0, visit.resting, 0, 0, 1.0))
        figures.append(_appearance(visit, frame, stance))
    image, owner = compose(scene, persons, figures)
    heads, _ = counted(*outlines(figures), owner)
    return develop(rng, image, frame), heads


def _appearance(visit: Visit, frame: int, stance: Stance) -> Figure:
    """Returns a person's picture in one frame. Body, clothes and folds are the same in all."""
    rng = np.random.default_rng([76, visit.identity])
    body = people.random_body(rng, visit.child)
    colours = sprites.palette(sprites.outfit(rng), 0.8)
    heading, pose = _bearing(rng, visit, frame)
    mesh, head = people.person(body, pose)
    folds = np.random.default_rng(visit.identity)
    sprite = sprites.draw(mesh, head, heading - stance.azimuth, stance.pitch, 12.0, folds)
    return stand(sprite, colours, stance, stance.density / sprite.density)


def _bearing(rng: Rng, visit: Visit, frame: int) -> tuple[float, Pose]:
    """Returns heading in radians and pose: walking while the place changes, else at rest."""
    here, ahead = np.array(visit.at(frame)), np.array(visit.at(frame + 0.05))
    x, z = (ahead - here).tolist()
    if abs(x) + abs(z) < 1e-3:
        rest = people.sitting if visit.resting == Role.SIT else people.standing
        return visit.facing, rest(rng)
    walked = float(np.hypot(*(here - visit.spots[0])))
    return float(np.arctan2(x, z)), people.walking(rng, walked * STRIDE % (2 * np.pi))


def develop(rng: Rng, image: Image.Image, frame: int) -> bytes:
    """Applies lens, drifting light, sensor noise and JPEG."""
    image = image.filter(ImageFilter.GaussianBlur(0.6))
    drift = 1.12 + 0.05 * np.sin(frame / 47) + 0.02 * np.sin(frame / 13)
    warm = 1 + 0.015 * np.sin(frame / 71)
    gain = (drift * warm, drift, drift / warm)
    table = [min(int(12 + 0.93 * v * g), 255) for g in gain for v in range(256)]
    image = effects.grain(rng, image.point(table), 1.9, 1.1)
    buffer = BytesIO()
    image.save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()


if __name__ == "__main__":
    main()
