"""CSV tables under any header: one row a frame with its count, or one row a person with a point."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from llava_dvc.data.data_errors import DataError, quoted
from llava_dvc.data.imports.annotations import (
    PERSON,
    AnnotationError,
    Answer,
    ImportChoices,
    Mark,
    Reading,
    Record,
    count_from,
    number_from,
    point_mark,
    text_from,
)
from llava_dvc.data.imports.import_files import ImportFiles
from llava_dvc.data.table import Header, Row, RowError, read_rows
from llava_dvc.errors import UserError

_ROLES = ("frame", "count", "x", "y", "camera")
_FORMS = ({"frame", "count"}, {"frame", "x", "y"})


def parse_columns(text: str | None) -> dict[str, str]:
    """The argument of --columns, such as `frame=file,count=people`; raises UserError."""
    columns: dict[str, str] = {}
    for part in text.split(",") if text else ():
        role, _, name = (piece.strip() for piece in part.partition("="))
        if role not in _ROLES or not name or role in columns:
            raise UserError(
                f"--columns: is {text!r}, expected for example frame=file,count=people or "
                "frame=file,x=px,y=py. Correct it."
            )
        columns[role] = name.lower()
    if columns and columns.keys() - {"camera"} not in _FORMS:
        raise UserError(
            f"--columns: is {text!r}, expected frame= and count=, or frame=, x= and y=; and "
            "camera= if there is one. Correct it."
        )
    return columns


def find_tables(files: ImportFiles) -> list[Path]:
    return files.with_suffix(".csv")


@dataclass
class _Row:
    """What the rows of one frame say."""

    line: int
    camera: str | None
    count: int | None = None
    marks: list[Mark] = field(default_factory=list)


def read_tables(files: ImportFiles, paths: Sequence[Path], choices: ImportChoices) -> Reading:
    """A record for each frame in the tables, and one for each picture without a row."""
    reading = Reading()
    for path in paths:
        frames: dict[str, _Row] = {}
        try:
            _read_table(path, choices.columns, frames, reading)
        except DataError as error:
            reading.problems += error.problems
        except AnnotationError as error:
            reading.add_problem(f"{path}:1", error, "header")
        reading.records += [_record_of(path, name, row) for name, row in frames.items()]
    # A frame without people has no row with a point: `--empty` says what it becomes.
    if "x" in choices.columns and reading.records and not reading.problems:
        files.add_unnamed_pictures(reading)
    return reading


def _record_of(path: Path, name: str, row: _Row) -> Record:
    answer = Answer(row.marks) if row.count is None else Answer(numbers={"count": row.count})
    return Record(f"{path}:{row.line}", name, [answer], camera=row.camera)


def _read_table(
    path: Path, columns: Mapping[str, str], frames: dict[str, _Row], reading: Reading
) -> None:
    """Fills `frames`; raises DataError or AnnotationError if no row can be read."""
    names = _header_of(path)
    shown = ", ".join(name for name in names if name)
    if not columns:
        raise AnnotationError(
            f"the columns are {shown}. Say what they are: --columns frame=NAME,count=NAME for one "
            "row a frame, or --columns frame=NAME,x=NAME,y=NAME for one row a person."
        )
    if missing := sorted(set(columns.values()) - set(names)):
        raise AnnotationError(f"has no column {missing[0]!r}. It has {shown}. Correct --columns.")
    for line, row in read_rows(path, Header([set(names)], ", ".join(names))):
        try:
            if isinstance(row, RowError):
                raise AnnotationError(row)
            _add_row(frames, line, {role: row[name] for role, name in columns.items()})
        except AnnotationError as error:
            reading.add_problem(f"{path}:{line}", error)


def _add_row(frames: dict[str, _Row], line: int, row: Row) -> None:
    """Adds a row to its frame; raises AnnotationError."""
    name = text_from(row["frame"], "frame")
    camera = text_from(row["camera"], "camera") if "camera" in row else None
    known = name in frames
    entry = frames.setdefault(name, _Row(line, camera))
    if entry.camera != camera:
        raise AnnotationError(
            f"camera is {quoted(str(camera))}, but on line {entry.line} it is "
            f"{quoted(str(entry.camera))}. Correct one of the two."
        )
    if "count" not in row:
        entry.marks.append(
            point_mark(PERSON, number_from(row["x"], "x"), number_from(row["y"], "y"))
        )
    elif known:
        raise AnnotationError(f"frame {quoted(name)} is on line {entry.line} too. Delete one.")
    else:
        entry.count = count_from(row["count"], "count")


def _header_of(path: Path) -> list[str]:
    """The names of the columns in lower case; raises AnnotationError.

    The first may be blank: pandas writes its row numbers there.
    """
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        text = file.readline(2**16).strip("\n")
    delimiter = max(",;\t", key=text.count)
    names = [name.strip().lower() for name in next(csv.reader([text], delimiter=delimiter), [])]
    if len(names) < 2 or len(set(names)) < len(names):
        raise AnnotationError(
            f"the header is {quoted(text)}, expected at least two different names with commas "
            "between them. Write one above the rows."
        )
    return names
