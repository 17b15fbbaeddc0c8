"""Reads and writes labels.csv.

The reader accepts every form that has one meaning: a byte order mark, Windows line ends, semicolons
or tabs, quotes, blanks, capitals in the header, zero-padded ids. It refuses everything else.
"""

import csv
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from llava_dvc.data.data_errors import DataError, DataProblem, quoted

MAX_COUNT = 9999
"""The largest label; evaluate.max_count has the same limit."""

MAX_NAME = 1024
"""Characters of a frame's path inside frames/."""
MAX_BYTES = 256 * 2**20
"""A million frames have 50 MB of labels."""

_HEADERS = [{key, "count"} | camera for key in ("id", "frame") for camera in (set(), {"camera"})]
_NOT_UTF8 = re.compile("[\udc80-\udcff]")  # `surrogateescape` decodes invalid bytes to these


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


class _Columns(NamedTuple):
    names: list[str]
    delimiter: str


class _RowError(ValueError):
    """The reason why a row cannot be used."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


def read_labels(path: Path) -> list[Label]:
    """The rows of labels.csv in natural order of frame name; raises DataError."""
    table = scan_labels(path, exclude=())
    if table.problems:
        raise DataError(table.problems)
    return table.rows


def write_labels(path: Path, counts: Mapping[int, int]) -> None:
    """Writes `id,count` lines; the id is the number in `seq_%06d.jpg`."""
    lines = [f"{number},{count}\n" for number, count in sorted(counts.items())]
    path.write_text("id,count\n" + "".join(lines), encoding="utf-8")


def scan_labels(path: Path, exclude: Sequence[str]) -> LabelTable:
    """Reads all rows of labels.csv, and finds the problem of each invalid row.

    Excluded frames are only in the table's `names`. Every line is a row, also when a quote is left
    open: one invalid line does not spoil the next.
    """
    if (size := path.stat().st_size) > MAX_BYTES:
        text = f"has {size:,} bytes, more than {MAX_BYTES:,}. Replace it by a table of labels."
        problem = DataProblem("too large", str(path), text, skippable=False)
        return LabelTable(problems=[problem], readable=False)
    with path.open(encoding="utf-8-sig", errors="surrogateescape") as file:
        try:
            columns = _parse_header(file.readline().rstrip("\n"))
        except _RowError as error:
            problem = DataProblem(error.kind, f"{path}:1", str(error), skippable=False)
            return LabelTable(problems=[problem], readable=False)
        table, excluded = LabelTable(), frozenset(exclude)
        labels: dict[str, list[Label]] = {}
        for line, text in enumerate(file, start=2):
            name = None
            try:
                row = _parse_row(text.rstrip("\n"), columns)
                if row is None:
                    continue
                name = _frame_name_in(row)
                table.names.add(name)
                if name not in excluded:
                    label = Label(line, name, _count_in(row, name), _camera_in(row))
                    labels.setdefault(name, []).append(label)
            except _RowError as error:
                table.problems.append(DataProblem(error.kind, f"{path}:{line}", str(error), name))
    _add_unique(table, labels.values(), path)
    return table


def natural_key(name: str) -> str:
    """A sort key that compares numbers in names by value: `cam2/9.jpg` before `cam2/10.jpg`.

    A number becomes a character below all others, its length and its digits. The key is one string
    because a million of them are in memory at once.
    """
    return re.sub(r"[0-9]+", _number_key, name) + "\0\0" + name


def _number_key(number: re.Match[str]) -> str:
    digits = number[0].lstrip("0")
    return f"\0{chr(len(digits) + 1)}{digits}"


def frame_name(number: int) -> str:
    """The file name of the frame with this `id` in labels.csv."""
    return f"seq_{number:06d}.jpg"


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


def _parse_header(text: str) -> _Columns:
    if _NOT_UTF8.search(text) or "\0" in text:
        raise _RowError("encoding", "the file is not UTF-8. Save it as UTF-8.")
    for delimiter in (",", ";", "\t"):
        try:
            names = [cell.lower() for cell in _split_cells(text, delimiter)]
        except _RowError:
            continue
        if set(names) in _HEADERS and len(set(names)) == len(names):
            return _Columns(names, delimiter)
    raise _RowError(
        "header",
        f"header is {quoted(text)}, expected `id,count` or `frame,count`, with `,camera` for "
        "several cameras. Correct the first line.",
    )


def _split_cells(text: str, delimiter: str) -> list[str]:
    if '"' not in text:
        return [cell.strip() for cell in text.split(delimiter)]
    try:
        reader = csv.reader([text], delimiter=delimiter, strict=True, skipinitialspace=True)
        return [cell.strip() for cell in next(reader, [])]
    except csv.Error as error:
        raise _RowError("row", f"{quoted(text)}: {error}. Correct the quotes there.") from None


def _parse_row(text: str, columns: _Columns) -> dict[str, str] | None:
    """The values by column; None for an empty line."""
    if not text.strip(f"{columns.delimiter} \t"):
        return None
    if _NOT_UTF8.search(text):
        raise _RowError("encoding", f"{quoted(text)} is not UTF-8. Save the file as UTF-8.")
    cells = _split_cells(text, columns.delimiter)
    if len(cells) != len(columns.names):
        raise _RowError(
            "row",
            f"{quoted(text)} has {len(cells)} values, expected {len(columns.names)} "
            f"({','.join(columns.names)}). Correct the line.",
        )
    return dict(zip(columns.names, cells, strict=True))


def _frame_name_in(row: Mapping[str, str]) -> str:
    if "id" not in row:
        return _require_inner_path(row["frame"])
    if not re.fullmatch(r"[0-9]{1,9}", row["id"]):
        raise _RowError(
            "id",
            f"id is {quoted(row['id'])}, expected the number in frames/seq_NNNNNN.jpg. Correct the "
            "line.",
        )
    return frame_name(int(row["id"]))


def _require_inner_path(text: str) -> str:
    if len(text) > MAX_NAME:
        raise _RowError(
            "name",
            f"frame is {quoted(text)} with {len(text):,} characters, expected at most "
            f"{MAX_NAME:,}. Correct the line, or rename the frame.",
        )
    path = PurePosixPath(text)
    odd = "\\" in text or any(unicodedata.category(char) in {"Cc", "Zl", "Zp"} for char in text)
    leaves = path.is_absolute() or ".." in path.parts
    if path.parts and text == path.as_posix() and not odd and not leaves:
        return text
    raise _RowError(
        "name",
        f"frame is {quoted(text)}, expected a path inside frames/, such as cam1/0001.jpg. Correct "
        "the line.",
    )


def _count_in(row: Mapping[str, str], name: str) -> int:
    text = row["count"]
    if re.fullmatch(r"[0-9]{1,6}", text) and int(text) <= MAX_COUNT:
        return int(text)
    raise _RowError(
        "count",
        f"count is {quoted(text)}, expected a whole number from 0 to {MAX_COUNT}. Correct the "
        f"label, or list {name} under data.exclude in params.yaml.",
    )


def _camera_in(row: Mapping[str, str]) -> str | None:
    if row.get("camera") == "":
        raise _RowError("camera", "camera is blank. Write its name, or delete the column `camera`.")
    return row.get("camera")
