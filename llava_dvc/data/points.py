"""Reads and writes points.csv, which is optional: where the people are, one row a person."""

import math
import re
from array import array
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from llava_dvc.data.data_errors import DataError, DataProblem, printable_name, quoted
from llava_dvc.data.images import Size, upright_size
from llava_dvc.data.labels import Label
from llava_dvc.data.table import Header, Row, RowError, frame_name_in, read_rows

POINTS = "points.csv"
HEADER = Header([{"id", "x", "y"}, {"frame", "x", "y"}], "`id,x,y` or `frame,x,y`")

_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_LONGEST = 32  # characters of a number

Points = Sequence[tuple[float, float]]
"""`x` and `y` of each person, in pixels from the left and the top of the frame."""


@dataclass
class FramePoints:
    """The rows of points.csv for one frame."""

    first: int = 0
    """Line of its first row."""
    lines: "array[int]" = field(default_factory=lambda: array("L"))
    """Lines of the valid rows."""
    values: "array[float]" = field(default_factory=lambda: array("d"))
    """x, y, x, y, ... of the valid rows."""
    spoilt: bool = False
    """Some row is invalid, so that the points are not all known."""

    def points(self) -> Points:
        return list(zip(self.values[::2], self.values[1::2], strict=True))


class PointTable:
    """The points of every frame in a points.csv."""

    def __init__(self, path: Path, exclude: Sequence[str]) -> None:
        """Reads all rows, except those of the frames in `exclude`. `check` yields the problems."""
        self.path, self._excluded = path, frozenset(exclude)
        self._frames: dict[str, FramePoints] = {}
        self._problems: list[DataProblem] = []
        self._readable = True
        try:
            for line, row in read_rows(path, HEADER):
                self._add(line, row)
        except DataError as error:
            self._problems, self._readable = error.problems, False

    def _add(self, line: int, row: Row | RowError) -> None:
        frame = name = None
        try:
            if isinstance(row, RowError):
                raise row
            name = frame_name_in(row)
            if name in self._excluded:
                return
            frame = self._frames.setdefault(name, FramePoints(line))
            frame.values.extend((_pixels_in(row, "x"), _pixels_in(row, "y")))
            frame.lines.append(line)
        except RowError as error:
            self._problems.append(DataProblem(error.kind, f"{self.path}:{line}", str(error), name))
            if frame:
                frame.spoilt = True

    def points_of(self, name: str) -> Points:
        """Empty for a frame without people."""
        return self._frames[name].points() if name in self._frames else []

    def check(
        self, labels: Sequence[Label], known: Collection[str], folder: Path
    ) -> Iterator[DataProblem]:
        """Yields every problem: of a row, of a frame that is not among the `known` ones, of a
        number of points that contradicts the label, and of points outside their frame.

        `labels` have an image in `folder` that can be decoded.
        """
        yield from self._problems
        for label in labels if self._readable else ():
            found = self._frames.get(label.name, FramePoints())
            if not found.spoilt and len(found.lines) != label.count:
                yield self._other_number(label, len(found.lines))
            elif found.lines and not found.spoilt:
                yield from self._outside(label, found, upright_size(folder / label.name))
        for name in sorted(self._frames.keys() - set(known)):
            yield self._unlabelled(name)

    def _unlabelled(self, name: str) -> DataProblem:
        text = (
            f"frame {printable_name(name)} is not in labels.csv. Add its count there, or delete "
            "its points."
        )
        return DataProblem("point", f"{self.path}:{self._frames[name].first}", text)

    def _other_number(self, label: Label, found: int) -> DataProblem:
        points = "1 point" if found == 1 else f"{found} points"
        text = (
            f"{printable_name(label.name)} has {points}, but its count on line {label.line} of "
            f"labels.csv is {label.count}. Write one row for each person, correct the count, or "
            f"list {printable_name(label.name)} under data.exclude in params.yaml."
        )
        return DataProblem("contradiction", str(self.path), text, label.name)

    def _outside(self, label: Label, found: FramePoints, size: Size) -> Iterator[DataProblem]:
        for line, point in zip(found.lines, found.points(), strict=True):
            for axis, value, limit in zip("xy", point, size, strict=True):
                if not 0 <= value <= limit:
                    text = (
                        f"{axis} is {value:g}, but {printable_name(label.name)} has {limit} pixels "
                        f"in this direction. Write pixels of the frame, from 0 to {limit}."
                    )
                    yield DataProblem("point", f"{self.path}:{line}", text, label.name)


def write_points(path: Path, points: Mapping[int, Points]) -> None:
    """Writes `id,x,y` lines; the id is the number in `seq_%06d.jpg`."""
    lines = (f"{number},{x:g},{y:g}\n" for number in sorted(points) for x, y in points[number])
    path.write_text("id,x,y\n" + "".join(lines), encoding="utf-8")


def _pixels_in(row: Mapping[str, str], axis: str) -> float:
    text = row[axis]
    if len(text) <= _LONGEST and _NUMBER.fullmatch(text) and math.isfinite(float(text)):
        return float(text)
    raise RowError(
        "point",
        f"{axis} is {quoted(text)}, expected a number of pixels such as 126.8. Correct the line.",
    )
