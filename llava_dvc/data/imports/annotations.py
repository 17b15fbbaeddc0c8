"""The common form of all annotation formats: what a file says about each picture."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from llava_dvc.data.data_errors import DataProblem, quoted
from llava_dvc.data.images import Size

PERSON = "person"
"""The category of formats that have none, such as those of crowd counting."""

HEAD_SHARE = 0.1
"""The point of a person's box lies this share of its height below its upper edge: on the head."""

_HEADS = {"head", "face"}


class AnnotationError(ValueError):
    """The reason why a part of an annotation file cannot be used, and the remedy."""


class Mark(NamedTuple):
    """A box around something, or a point on it: then left = right and top = bottom."""

    category: str
    left: float
    top: float
    right: float
    bottom: float
    crowd: bool = False
    """It is a region with many people, of unknown number."""

    def scaled(self, across: float, down: float) -> "Mark":
        sides = self.left * across, self.top * down, self.right * across, self.bottom * down
        return Mark(self.category, *sides, self.crowd)

    def point(self) -> tuple[float, float]:
        """The middle of a head; of any other box, the point where its head is likely."""
        share = 0.5 if self.category.casefold() in _HEADS else HEAD_SHARE
        middle = (self.left + self.right) / 2
        return middle, self.top + share * (self.bottom - self.top)


@dataclass(frozen=True)
class Answer:
    """What one annotator says about a picture."""

    marks: Sequence[Mark] = ()
    numbers: Mapping[str, int] = field(default_factory=dict)
    """Typed counts, by the name of their field."""
    sure: bool = False
    """Without any mark or number it means nobody."""

    @property
    def blank(self) -> bool:
        return not (self.marks or self.numbers or self.sure)


@dataclass(frozen=True)
class Record:
    """What an annotation file says about one picture."""

    place: str
    """The file, or `file:line`."""
    picture: str
    """As the file names it."""
    answers: Sequence[Answer] = ()
    size: Size | None = None
    """Width and height of the picture, as the file states them."""
    camera: str | None = None
    relative: bool = False
    """Marks are shares of the picture's width and height instead of pixels."""


@dataclass
class Reading:
    """Everything in the annotation files of one format."""

    records: list[Record] = field(default_factory=list)
    problems: list[DataProblem] = field(default_factory=list)
    categories: list[str] = field(default_factory=list)
    """Categories that the files declare, used or not."""
    notes: list[str] = field(default_factory=list)
    """Sentences for the user."""

    def add_problem(self, place: object, error: object, kind: str = "annotation") -> None:
        self.problems.append(DataProblem(kind, str(place), str(error)))


@dataclass(frozen=True)
class ImportChoices:
    """The options of `llava-dvc import`."""

    categories: Sequence[str] = ()
    ignore_crowds: bool = False
    empty: str | None = None
    """What a picture without annotation becomes: "zero", "skip", or None to ask."""
    keep_unlabelled: bool = False
    """Pictures that nobody labelled stay without a label, instead of being left out."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Columns of a CSV file, by what they become: frame, count, x, y, camera."""


def box_mark(category: str, left: float, top: float, right: float, bottom: float) -> Mark:
    """Raises AnnotationError for a box without area."""
    if right <= left or bottom <= top:
        raise AnnotationError(
            f"a box of {quoted(category)} has the corners ({left:g}, {top:g}) and ({right:g}, "
            f"{bottom:g}), and no area. Correct it, or delete it."
        )
    return Mark(category, left, top, right, bottom)


def point_mark(category: str, x: float, y: float) -> Mark:
    return Mark(category, x, y, x, y)


def spanning_mark(category: str, points: Sequence[tuple[float, float]]) -> Mark:
    """The box around an outline; raises AnnotationError."""
    xs, ys = zip(*points, strict=True)
    return box_mark(category, min(xs), min(ys), max(xs), max(ys))


def turned_mark(mark: Mark, degrees: float, pivot: tuple[float, float]) -> Mark:
    """The upright box around `mark` turned clockwise about `pivot`."""
    if not degrees:
        return mark
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    corners = [
        (
            pivot[0] + (x - pivot[0]) * cos - (y - pivot[1]) * sin,
            pivot[1] + (x - pivot[0]) * sin + (y - pivot[1]) * cos,
        )
        for x in (mark.left, mark.right)
        for y in (mark.top, mark.bottom)
    ]
    return spanning_mark(mark.category, corners)


def number_from(value: Any, what: str) -> float:
    """A finite number, given as such or as text; raises AnnotationError."""
    try:
        if isinstance(value, bool):
            raise ValueError
        number = float(value)
        if math.isfinite(number):
            return number
    except (TypeError, ValueError, OverflowError):
        pass
    raise AnnotationError(f"{what} is {quoted(str(value))}, expected a number. Correct it.")


def count_from(value: Any, what: str) -> int:
    """A whole number from 0, given as such or as text; raises AnnotationError."""
    number = number_from(value, what)
    if number < 0 or number != int(number):
        raise AnnotationError(
            f"{what} is {quoted(str(value))}, expected a whole number from 0. Correct it."
        )
    return int(number)


def text_from(value: Any, what: str) -> str:
    """Text that is not blank; raises AnnotationError."""
    if isinstance(value, str) and value.strip():
        return value
    raise AnnotationError(f"{what} is {quoted(str(value))}, expected a name. Correct it.")
