"""Articulated people as quad meshes: bodies, poses, outfits and colours.

A person stands at the origin facing +z. Lengths are shares of body height until the last step.
"""

from dataclasses import dataclass, replace
from enum import IntEnum

import numpy as np

from pretrain.mesh import Array, Mesh, ball, box, join, tube

Rng = np.random.Generator


class Part(IntEnum):
    """Materials of a person. An outfit gives a colour to each."""

    SKIN = 0
    HAIR = 1
    TOP = 2
    TRIM = 3
    SLEEVE = 4
    FOREARM = 5
    BOTTOM = 6
    SHIN = 7
    SHOE = 8
    BAG = 9
    HAT = 10
    SKIRT = 11
    FRAME = 12
    FABRIC = 13
    HAND = 14


@dataclass(frozen=True)
class Body:
    height: float
    """Metres."""
    girth: float
    """Width of trunk and limbs; 1 is average."""
    child: bool
    hair: str
    """One of bald, short, bob, long, bun, hat, hood."""
    dress: str
    """One of trousers, skirt, coat, shorts, gown."""
    pattern: str
    """One of plain, stripes, open, yoke: which faces of the top show the trim colour."""
    bag: str
    """One of none, shoulder, backpack, carrier, two."""


@dataclass(frozen=True)
class Pose:
    """Angles in radians, positive forward; pairs are (left, right)."""

    thigh: tuple[float, float]
    knee: tuple[float, float]
    arm: tuple[float, float]
    elbow: tuple[float, float]
    spread: float
    lean: float
    nod: float
    glance: float
    sitting: bool = False


HAIR = ("short", "short", "short", "bob", "long", "long", "bun", "bald", "hat", "hood")
DRESS = ("trousers",) * 6 + ("skirt", "coat", "coat", "shorts", "gown")
PATTERN = ("plain", "plain", "plain", "plain", "open", "open", "stripes", "yoke")
BAGS = ("none",) * 4 + ("shoulder", "shoulder", "backpack", "carrier", "two")


def random_body(rng: Rng, child: bool = False) -> Body:
    height = rng.uniform(0.85, 1.4) if child else np.clip(rng.normal(1.69, 0.09), 1.5, 1.95)
    pick = {"hair": HAIR, "dress": DRESS, "pattern": PATTERN, "bag": BAGS}
    chosen = {name: values[rng.integers(len(values))] for name, values in pick.items()}
    if child:
        chosen["bag"] = "none"
    girth = float(np.clip(rng.normal(1.08, 0.16), 0.82, 1.6))
    return Body(float(height), girth, child, **chosen)


def walking(rng: Rng, phase: float) -> Pose:
    """A stride at `phase` in [0, 2 pi)."""
    stride = rng.uniform(0.35, 0.55)
    swing = np.sin(phase)
    lift = np.maximum(0, np.sin(phase + np.array([np.pi / 2, -np.pi / 2]))) * rng.uniform(0.6, 1.0)
    arm = swing * rng.uniform(0.3, 0.6)
    bend = rng.uniform(0.1, 0.6)
    return Pose(
        thigh=(stride * swing + 0.05, -stride * swing + 0.05),
        knee=(float(lift[0]), float(lift[1])),
        arm=(-arm, arm),
        elbow=(bend, bend + rng.uniform(-0.1, 0.4)),
        spread=rng.uniform(0.05, 0.2),
        lean=rng.uniform(0.0, 0.12),
        nod=rng.uniform(-0.05, 0.4),
        glance=rng.normal(0, 0.35),
    )


def standing(rng: Rng) -> Pose:
    """Standing on both feet; the arms hang, are folded, or hold a phone."""
    arms = rng.integers(5)
    arm, elbow = ((0.0, 0.2), (0.25, 2.0), (0.7, 1.5), (0.1, 0.4), (0.3, 1.3))[arms]
    one = rng.random() < 0.5
    return Pose(
        thigh=(rng.uniform(-0.05, 0.12), rng.uniform(-0.05, 0.12)),
        knee=(0.03, rng.uniform(0, 0.25)),
        arm=(arm, 0.05 if one else arm),
        elbow=(elbow, 0.2 if one else elbow),
        spread=rng.uniform(0.06, 0.3),
        lean=rng.uniform(-0.03, 0.25) if arms else rng.uniform(0, 0.6) ** 2,
        nod=rng.uniform(0, 0.6),
        glance=rng.normal(0, 0.5),
    )


def sitting(rng: Rng) -> Pose:
    knee = rng.uniform(1.2, 1.7)
    return Pose(
        thigh=(1.45, 1.45),
        knee=(knee, knee + rng.uniform(-0.3, 0.2)),
        arm=(rng.uniform(0.2, 0.7), rng.uniform(0.2, 0.7)),
        elbow=(rng.uniform(0.6, 1.4), rng.uniform(0.6, 1.4)),
        spread=rng.uniform(0.05, 0.2),
        lean=rng.uniform(-0.15, 0.45),
        nod=rng.uniform(0, 0.7),
        glance=rng.normal(0, 0.5),
        sitting=True,
    )


def pushing(rng: Rng, phase: float) -> Pose:
    """Walking with both hands on a bar in front."""
    return replace(walking(rng, phase), arm=(0.75, 0.75), elbow=(0.6, 0.6), lean=0.15)


def person(body: Body, pose: Pose) -> tuple[Mesh, Array]:
    """Returns the mesh, feet at y = 0 also when sitting, and the head's centre, (3,); metres."""
    legs, low = _legs(body, pose)
    trunk, head = _trunk(body, pose)
    rise = -low
    mesh = join([legs, trunk])
    quads = (mesh.quads + np.array([0, rise, 0], np.float32)) * body.height
    centre = (head + np.array([0, rise, 0], np.float32)) * body.height
    return Mesh(quads, mesh.material), centre.astype(np.float32)


def pram(rng: Rng) -> Mesh:
    """A pushchair or shopping trolley in front of its owner."""
    z = 0.75
    if rng.random() < 0.3:
        basket = box((0, 0.72, z), (0.5, 0.42, 0.75), Part.FRAME, Part.FABRIC)
        return join([basket, box((0, 0.2, z), (0.45, 0.06, 0.8), Part.FRAME), *_wheels(z)])
    seat = ball((0, 0.62, z), (0.24, 0.22, 0.38), Part.FABRIC)
    hood = ball((0, 0.86, z - 0.12), (0.25, 0.2, 0.26), Part.FABRIC)
    bar = tube([(0, 0.6, z - 0.2), (0, 1.0, 0.36)], (0.16, 0.2), Part.FRAME, 4)
    tray = box((0, 0.25, z), (0.4, 0.12, 0.6), Part.FRAME)
    return join([seat, hood, bar, tray, *_wheels(z)])


def _wheels(z: float) -> list[Mesh]:
    return [
        ball((x, 0.1, z + dz), (0.04, 0.1, 0.1), Part.FRAME, 6, 5)
        for x in (-0.22, 0.22)
        for dz in (-0.3, 0.3)
    ]


def _legs(body: Body, pose: Pose) -> tuple[Mesh, float]:
    """Returns both legs below a pelvis at y = 0.51, and their lowest point."""
    thick = 0.85 * body.girth + 0.15
    loose = 1.15 if body.dress in ("trousers", "coat") else 0.95
    thigh_part = Part.SKIN if body.dress == "shorts" else Part.BOTTOM
    parts, low = [], np.inf
    for side, thigh, knee in zip((-1, 1), pose.thigh, pose.knee, strict=True):
        x = 0.047 * side * thick
        hip = np.array([x, 0.50, 0])
        bend = hip + 0.235 * np.array([0.1 * side, -np.cos(thigh), np.sin(thigh)])
        shin = thigh - knee
        ankle = bend + 0.235 * np.array([0, -np.cos(shin), np.sin(shin)])
        middle = (hip + bend) / 2
        widths = np.array([0.056, 0.052, 0.040]) * thick * (0.5 + loose / 2)
        parts.append(tube([hip, middle, bend], widths, [Part.BOTTOM, thigh_part], 8))
        calf = np.array([0.038, 0.037, 0.027 * loose]) * thick
        parts.append(tube([bend, (bend * 2 + ankle) / 3, ankle], calf, Part.SHIN, 8))
        toe = ankle + np.array([0.01 * side, -0.022, 0.085])
        heel = ankle + np.array([0, -0.018, -0.02])
        parts.append(tube([heel, (heel + toe) / 2, toe], [0.024, 0.028, 0.02], Part.SHOE, 6))
        low = min(low, float(toe[1]), float(heel[1]))
    if body.dress in ("skirt", "gown", "coat") and not pose.sitting:
        parts.append(_skirt(body, pose))
    return join(parts), low - 0.02


def _skirt(body: Body, pose: Pose) -> Mesh:
    hem = {"skirt": 0.29, "gown": 0.10, "coat": 0.30}[body.dress]
    stride = abs(np.sin(pose.thigh[0]) - np.sin(pose.thigh[1])) * (0.5 - hem) / 2
    wide = 0.095 * body.girth
    path = [(0, 0.60, 0), (0, 0.50, 0), (0, (0.5 + hem) / 2, 0), (0, hem, 0)]
    radii = [
        (wide * 0.92, wide * 0.72),
        (wide * 1.08, wide * 0.9),
        (wide * 1.15, wide * 0.9 + stride * 0.6),
        (wide * 1.22, wide * 0.9 + stride),
    ]
    return tube(path, radii, Part.SKIRT, 12)


def _trunk(body: Body, pose: Pose) -> tuple[Mesh, Array]:
    """Returns everything above the pelvis, bent by the pose's lean, and the head's centre."""
    head_size = 1.35 if body.child else 1.0
    head = np.array([0, 0.925, 0.012 + 0.05 * pose.nod])
    parts = [_torso(body), _head(body, head, head_size, pose), *_arms(body, pose), *_bags(body)]
    mesh = join(parts)
    pivot = np.array([0, 0.51, 0], np.float32)
    c, s = np.cos(pose.lean), np.sin(pose.lean)
    bend = np.array([[1, 0, 0], [0, c, -s], [0, s, c]], np.float32)
    return Mesh((mesh.quads - pivot) @ bend.T + pivot, mesh.material), (
        head - pivot
    ) @ bend.T + pivot


def _torso(body: Body) -> Mesh:
    g = body.girth
    deep = g * (1.0 if g < 1.15 else 1.1)
    levels = (0.49, 0.53, 0.58, 0.63, 0.68, 0.73, 0.775, 0.805, 0.83, 0.87)
    wide = (0.092, 0.098, 0.092, 0.09, 0.096, 0.105, 0.106, 0.082, 0.046, 0.034)
    deeps = (0.066, 0.071, 0.069, 0.069, 0.074, 0.076, 0.068, 0.054, 0.040, 0.034)
    fat = np.array([g] * 7 + [0.5 + g / 2] * 2 + [1.0])
    radii = np.stack([np.array(wide) * fat, np.array(deeps) * fat * deep / g], axis=1)
    bands = {"stripes": (1, 3, 5), "yoke": (5, 6, 7)}.get(body.pattern, ())
    gaps = [Part.TRIM if i in bands else Part.TOP for i in range(8)]
    gaps[0] = Part.SKIRT if body.dress == "coat" else Part.BOTTOM
    mesh = tube([(0, y, 0) for y in levels], radii, [*gaps, Part.SKIN], 18)
    if body.pattern != "open":
        return mesh
    middle = mesh.quads.mean(axis=1)
    front = (middle[:, 2] > 0.02) & (abs(middle[:, 0]) < 0.035 * g) & (middle[:, 1] > 0.53)
    kinds = np.where(front & (mesh.material == Part.TOP), Part.TRIM, mesh.material)
    return Mesh(mesh.quads, kinds.astype(np.uint8))


def _arms(body: Body, pose: Pose) -> list[Mesh]:
    thick = 0.7 * body.girth + 0.3
    parts = []
    for side, swing, elbow in zip((-1, 1), pose.arm, pose.elbow, strict=True):
        shoulder = np.array([0.102 * side * (0.4 + 0.6 * body.girth), 0.783, 0])
        out = np.sin(pose.spread) * side
        joint = shoulder + 0.155 * np.array([out, -np.cos(swing), np.sin(swing)])
        fore = swing + elbow
        inward = -0.25 * side * min(elbow, 1.0)
        wrist = joint + 0.14 * np.array([inward + out / 2, -np.cos(fore), np.sin(fore)])
        hand = wrist + 0.04 * np.array([inward, -np.cos(fore), np.sin(fore)])
        upper = np.array([0.035, 0.034, 0.028]) * thick
        parts.append(tube([shoulder, (shoulder + joint) / 2, joint], upper, Part.SLEEVE, 10))
        parts.append(tube([joint, wrist], np.array([0.027, 0.021]) * thick, Part.FOREARM, 7))
        parts.append(ball((wrist + hand) / 2, (0.02, 0.03, 0.024), Part.HAND, 6, 5))
    return parts


def _head(body: Body, centre: Array, size: float, pose: Pose) -> Mesh:
    """Returns skull and hair, turned by the glance and tilted by the nod."""
    radii = np.array([0.046, 0.066, 0.055]) * size
    skull = ball((0, 0, 0), radii, Part.SKIN, 12, 9)
    middle = skull.quads.mean(axis=1) / radii
    parts = [Mesh(skull.quads, _hairline(body.hair, middle))]
    parts += _hair_volume(body.hair, size)
    mesh = join(parts)
    c, s = np.cos(pose.nod), np.sin(pose.nod)
    tip = np.array([[1, 0, 0], [0, c, -s], [0, s, c]], np.float32)
    c, s = np.cos(pose.glance), np.sin(pose.glance)
    yaw = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]], np.float32)
    return Mesh((mesh.quads @ (yaw @ tip).T + centre).astype(np.float32), mesh.material)


def _hairline(hair: str, middle: Array) -> np.ndarray:
    """Material of each skull face from its place on the unit sphere, (faces, 3)."""
    y, z = middle[:, 1], middle[:, 2]
    cover = {"bald": (y > 2), "hat": (y > 0.25), "hood": (z < 0.45) | (y > 0.6)}
    hairy = cover.get(hair, (y > 0.55) | ((z < 0.15) & (y > -0.45)))
    part = Part.HAT if hair in ("hat", "hood") else Part.HAIR
    kinds = np.where(hairy, part, Part.SKIN)
    if hair == "hat":
        kinds = np.where((y <= 0.25) & (z < 0.1) & (y > -0.4), Part.HAIR, kinds)
    return kinds.astype(np.uint8)


def _hair_volume(hair: str, size: float) -> list[Mesh]:
    """Returns the parts outside the skull: long hair, a bun, a brim."""
    if hair in ("long", "bob"):
        low = -0.13 if hair == "long" else -0.075
        path = np.array(
            [(0, 0.05, -0.012), (0, 0.0, -0.022), (0, low * 0.7, -0.03), (0, low, -0.03)]
        )
        wide = np.array([(0.042, 0.04), (0.054, 0.046), (0.055, 0.036), (0.036, 0.02)])
        return [tube(path * size, wide * size, Part.HAIR, 9)]
    if hair == "bun":
        return [ball((0, 0.04 * size, -0.06 * size), np.full(3, 0.028) * size, Part.HAIR, 7, 5)]
    if hair == "hood":
        return [ball((0, -0.05, -0.03), (0.07, 0.04, 0.045), Part.HAT, 9, 5)]
    if hair == "hat":
        return [ball((0, 0.028, 0.015), (0.062 * size, 0.008, 0.072 * size), Part.HAT, 10, 5)]
    return []


def _bags(body: Body) -> list[Mesh]:
    g = body.girth
    side = 0.155 * g
    shapes = {
        "shoulder": [ball((side, 0.53, -0.01), (0.028, 0.055, 0.085), Part.BAG, 8, 5)],
        "backpack": [ball((0, 0.70, -0.11 * g), (0.085, 0.12, 0.06), Part.BAG, 10, 7)],
        "carrier": [box((side + 0.01, 0.37, 0.02), (0.05, 0.17, 0.15), Part.BAG)],
        "two": [
            box((x, 0.36, 0.02), (0.05, 0.15, 0.14), Part.BAG) for x in (-side - 0.01, side + 0.01)
        ],
    }
    return shapes.get(body.bag, [])
