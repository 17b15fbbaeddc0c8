"""Kinds of places where cameras hang."""

from dataclasses import dataclass

from pretrain import props
from pretrain.props import Maker


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
