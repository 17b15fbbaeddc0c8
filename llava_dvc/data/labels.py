"""Reads and writes labels.csv. `table.py` says which forms of it are accepted."""

import csv
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from llava_dvc.data.data_errors import DataError, DataProblem, quoted
from llava_dvc.data.table import Header, Row, RowError, frame_name_in, read_rows
from llava_dvc.errors import UserError

MAX_COUNT = 9999
"""The largest label; evaluate.max_count has the same limit."""

RECORD = "label_studio.csv"
"""The answers that `llava-dvc label` brought last, to tell them from labels made by hand."""

RECORD_COLUMNS = ("frame", "count", "time", "task")

HEADER = Header(
    [{key, "count"} | camera for key in ("id", "frame") for camera in (set(), {"camera"})],
    "`id,count` or `frame,count`, with `,camera` for several cameras",
)


@dataclass(frozen=True, slots=True)
class Label:
    """One row of labels.csv; `line` is its line number, counted from 1."""

    line: int
    name: str
    count: int
    camera: str | None


@dataclass
class LabelTable:
    """The valid rows of labels.csv in natural order, and a problem for each invalid one."""

    rows: list[Label] = field(default_factory=list)
    problems: list[DataProblem] = field(default_factory=list)
    names: set[str] = field(default_factory=set)
    """Names of all frames in it, valid or not."""
    readable: bool = True
    """False when the header is invalid, so that no row can be read."""


def read_labels(path: Path) -> list[Label]:
    """The rows of labels.csv in natural order of frame name; raises DataError."""
    table = scan_labels(path, exclude=())
    if table.problems:
        raise DataError(table.problems)
    return table.rows


def read_record(path: Path) -> list[list[str]]:
    """The rows of RECORD, without its header; raises UserError."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            header, *rows = csv.reader(file)
        if tuple(header) != RECORD_COLUMNS or {len(row) for row in rows} - {len(header)}:
            raise ValueError
        for row in rows:
            int(row[1])
        return rows
    except (ValueError, csv.Error):
        raise UserError(
            f"{path}: cannot be read. Take it from DVC again, or delete it: then every label "
            "counts as made by hand."
        ) from None


def write_labels(path: Path, counts: Mapping[int, int]) -> None:
    """Writes `id,count` lines; the id is the number in `seq_%06d.jpg`."""
    lines = [f"{number},{count}\n" for number, count in sorted(counts.items())]
    path.write_text("id,count\n" + "".join(lines), encoding="utf-8")


def scan_labels(path: Path, exclude: Sequence[str]) -> LabelTable:
    """Reads all rows of labels.csv, and finds the problem of each invalid row.

    Excluded frames are only in the table's `names`.
    """
    table, excluded = LabelTable(), frozenset(exclude)
    labels: dict[str, list[Label]] = {}
    try:
        for line, row in read_rows(path, HEADER):
            label = _parse_label(path, line, row, table)
            if label and label.name not in excluded:
                labels.setdefault(label.name, []).append(label)
    except DataError as error:
        return LabelTable(problems=error.problems, readable=False)
    table.problems = [problem for problem in table.problems if problem.frame not in excluded]
    _add_unique(table, labels.values(), path)
    return table


def _parse_label(path: Path, line: int, row: Row | RowError, table: LabelTable) -> Label | None:
    """The label of a row. None for an invalid one, whose problem is added to `table`."""
    name = None
    try:
        if isinstance(row, RowError):
            raise row
        name = frame_name_in(row)
        table.names.add(name)
        return Label(line, name, _count_in(row, name), _camera_in(row))
    except RowError as error:
        table.problems.append(DataProblem(error.kind, f"{path}:{line}", str(error), name))
    return None


def natural_key(name: str) -> str:
    """A sort key that compares numbers in names by value: `cam2/9.jpg` before `cam2/10.jpg`.

    A number becomes a character below all others, its length and its digits. The key is one string
    because a million of them are in memory at once.
    """
    return re.sub(r"[0-9]+", _number_key, name) + "\0\0" + name


def _number_key(number: re.Match[str]) -> str:
    digits = number[0].lstrip("0")
    return f"\0{chr(len(digits) + 1)}{digits}"


def _add_unique(table: LabelTable, groups: Iterable[Sequence[Label]], path: Path) -> None:
    """Adds one row for each frame; `groups` has the rows of each frame."""
    for labels in groups:
        problems = _repetition_problems(labels, path) if len(labels) > 1 else []
        table.problems += problems
        if len(problems) < len(labels):
            table.rows.append(labels[0])
    table.rows.sort(key=lambda label: natural_key(label.name))


def _repetition_problems(labels: Sequence[Label], path: Path) -> list[DataProblem]:
    """The problems of several rows of one frame.

    Of equal rows the first is valid. Of different rows none is: nobody knows which is right.
    """
    first, *others = labels
    if all((x.count, x.camera) == (first.count, first.camera) for x in others):
        text = f"{first.name} has the same label on line {first.line}. Delete one of the two lines."
        return [DataProblem("twice", f"{path}:{x.line}", text, x.name) for x in others]
    lines = ", ".join(f"{x.count} on line {x.line}" for x in labels[:5])
    text = f"{first.name} has different labels: {lines}. Delete the wrong ones."
    return [DataProblem("contradiction", f"{path}:{x.line}", text, x.name) for x in labels]


def _count_in(row: Mapping[str, str], name: str) -> int:
    text = row["count"]
    if re.fullmatch(r"[0-9]{1,6}", text) and int(text) <= MAX_COUNT:
        return int(text)
    raise RowError(
        "count",
        f"count is {quoted(text)}, expected a whole number from 0 to {MAX_COUNT}. Correct the "
        f"label, or list {name} under data.exclude in params.yaml.",
    )


def _camera_in(row: Mapping[str, str]) -> str | None:
    if row.get("camera") == "":
        raise RowError("camera", "camera is blank. Write its name, or delete the column `camera`.")
    return row.get("camera")
