"""Reads and writes a table of frames: labels.csv or points.csv.

The reader accepts every form that has one meaning: a byte order mark, Windows line ends, semicolons
or tabs, quotes, blanks, capitals in the header, zero-padded ids. It refuses everything else.
"""

import csv
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from llava_dvc.data.data_errors import DataError, DataProblem, quoted
from llava_dvc.files import new_file

MAX_NAME = 1024
"""Characters of a frame's path inside frames/."""
MAX_BYTES = 256 * 2**20
"""A million frames have 50 MB of labels."""

_NOT_UTF8 = re.compile("[\udc80-\udcff]")  # `surrogateescape` decodes invalid bytes to these

Row = dict[str, str]
"""One line's values by column."""


class RowError(ValueError):
    """The reason why a row cannot be used."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


class Header(NamedTuple):
    """The columns that a table may have."""

    columns: Sequence[set[str]]
    expected: str
    """The same in words, for the message."""


class _Columns(NamedTuple):
    names: list[str]
    delimiter: str


def read_rows(path: Path, header: Header) -> Iterator[tuple[int, Row | RowError]]:
    """Yields line number and values of each row, or the reason why it cannot be used.

    Every line is a row, also when a quote is left open: one invalid line does not spoil the next.
    Raises DataError when the file is too large or its header is invalid, so that no row can be
    read.
    """
    if (size := path.stat().st_size) > MAX_BYTES:
        text = f"has {size:,} bytes, more than {MAX_BYTES:,}. Replace it by a table of labels."
        raise DataError([DataProblem("too large", str(path), text, skippable=False)])
    with path.open(encoding="utf-8-sig", errors="surrogateescape") as file:
        try:
            columns = _parse_header(file.readline().rstrip("\n"), header)
        except RowError as error:
            problem = DataProblem(error.kind, f"{path}:1", str(error), skippable=False)
            raise DataError([problem]) from None
        for line, text in enumerate(file, start=2):
            try:
                row = _parse_row(text.rstrip("\n"), columns)
            except RowError as error:
                yield line, error
                continue
            if row is not None:
                yield line, row


def frame_name(number: int) -> str:
    """The file name of the frame with this `id` in labels.csv."""
    return f"seq_{number:06d}.jpg"


def frame_name_in(row: Mapping[str, str]) -> str:
    """The name of the row's frame; raises RowError."""
    if "id" not in row:
        return _require_inner_path(row["frame"])
    if not re.fullmatch(r"[0-9]{1,9}", row["id"]):
        raise RowError(
            "id",
            f"id is {quoted(row['id'])}, expected the number in frames/seq_NNNNNN.jpg. Correct the "
            "line.",
        )
    return frame_name(int(row["id"]))


def _parse_header(text: str, header: Header) -> _Columns:
    if _NOT_UTF8.search(text) or "\0" in text:
        raise RowError("encoding", "the file is not UTF-8. Save it as UTF-8.")
    for delimiter in (",", ";", "\t"):
        try:
            names = [cell.lower() for cell in _split_cells(text, delimiter)]
        except RowError:
            continue
        if set(names) in header.columns and len(set(names)) == len(names):
            return _Columns(names, delimiter)
    raise RowError(
        "header",
        f"header is {quoted(text)}, expected {header.expected}. Correct the first line.",
    )


def _split_cells(text: str, delimiter: str) -> list[str]:
    if '"' not in text:
        return [cell.strip() for cell in text.split(delimiter)]
    try:
        reader = csv.reader([text], delimiter=delimiter, strict=True, skipinitialspace=True)
        return [cell.strip() for cell in next(reader, [])]
    except csv.Error as error:
        raise RowError("row", f"{quoted(text)}: {error}. Correct the quotes there.") from None


def _parse_row(text: str, columns: _Columns) -> Row | None:
    """The values by column; None for an empty line."""
    if not text.strip(f"{columns.delimiter} \t"):
        return None
    if _NOT_UTF8.search(text):
        raise RowError("encoding", f"{quoted(text)} is not UTF-8. Save the file as UTF-8.")
    cells = _split_cells(text, columns.delimiter)
    if len(cells) != len(columns.names):
        raise RowError(
            "row",
            f"{quoted(text)} has {len(cells)} values, expected {len(columns.names)} "
            f"({','.join(columns.names)}). Correct the line.",
        )
    return dict(zip(columns.names, cells, strict=True))


def _require_inner_path(text: str) -> str:
    if len(text) > MAX_NAME:
        raise RowError(
            "name",
            f"frame is {quoted(text)} with {len(text):,} characters, expected at most "
            f"{MAX_NAME:,}. Correct the line, or rename the frame.",
        )
    path = PurePosixPath(text)
    odd = "\\" in text or any(unicodedata.category(char) in {"Cc", "Zl", "Zp"} for char in text)
    leaves = path.is_absolute() or ".." in path.parts
    if path.parts and text == path.as_posix() and not odd and not leaves:
        return text
    raise RowError(
        "name",
        f"frame is {quoted(text)}, expected a path inside frames/, such as cam1/0001.jpg. Correct "
        "the line.",
    )


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Writes a CSV file, whole or not at all."""
    with new_file(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)
