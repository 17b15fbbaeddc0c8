"""Reads the rows that `llava-dvc watch` has written."""

import csv
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from llava_dvc.errors import UserError
from llava_dvc.recipe import LARGEST_COUNT

NEEDED = ("time", "camera", "count", "low", "high")
"""Columns that every version of `watch` has written."""


class ReadRow(NamedTuple):
    """What is used of a row."""

    time: datetime
    camera: str
    zone: str
    """Empty for the whole frame."""
    people: int
    width: int
    """Of the 80 % interval, in people."""
    suspect: str
    """Why it may not be true; else empty."""
    distance: float
    """NaN if it is not known."""
    adapter: str
    """The first digits of its sha256; empty in rows of an older version."""


def read_readings(paths: Sequence[Path]) -> pd.DataFrame:
    """Returns the rows of all files once, with the columns of ReadRow, in order of time.

    A file is CSV if its name ends so, else JSON Lines. Raises UserError for a file that cannot be
    read or has no row, and for a line that is no row.
    """
    rows = list(chain.from_iterable(map(_read_file, paths)))
    table = pd.DataFrame(rows, columns=ReadRow._fields)
    table["time"] = pd.to_datetime(table["time"], utc=True)
    return table.drop_duplicates(["time", "camera", "zone"]).sort_values("time", kind="stable")


def _read_file(path: Path) -> Iterator[ReadRow]:
    is_empty = True
    try:
        with path.open(encoding="utf-8", newline="") as file:
            # The end of a row that a power failure cut off is not a row.
            lines = (line for line in file if line.endswith("\n"))
            values = _csv_values(path, lines) if path.suffix == ".csv" else _json_values(lines)
            for number, row in values:
                is_empty = False
                yield _row(path, number, row)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}). Correct the path.") from None
    except UnicodeDecodeError:
        raise _no_row(path, "it is not UTF-8") from None
    if is_empty:
        raise UserError(f"{path}: has no rows. Name a file that `llava-dvc watch` has written.")


def _json_values(lines: Iterator[str]) -> Iterator[tuple[int, Any]]:
    """Yields the number of each line, and its value; None for a line that is not JSON."""
    for number, line in enumerate(lines, 1):
        try:
            yield number, json.loads(line)
        except (ValueError, RecursionError):
            yield number, None


def _csv_values(path: Path, lines: Iterator[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.DictReader(lines)
    if missing := [name for name in NEEDED if name not in (reader.fieldnames or NEEDED)]:
        raise _no_row(f"{path}:1", f"the head of the table has no {missing[0]}")
    for row in reader:
        yield reader.line_num, row


def _row(path: Path, number: int, values: Any) -> ReadRow:
    place = f"{path}:{number}"
    if not isinstance(values, dict):
        raise _no_row(place, "it is not a JSON object")
    try:
        return _checked(values)
    except KeyError as error:
        raise _no_row(place, f"it has no {error.args[0]}") from None
    except (TypeError, ValueError, ArithmeticError) as error:
        raise _no_row(place, str(error)) from None


def _checked(values: Mapping[str, Any]) -> ReadRow:
    """Raises KeyError, TypeError, ValueError or ArithmeticError for values that are no row."""
    time = datetime.fromisoformat(values["time"])
    if time.tzinfo is None:
        raise ValueError("its time has no offset from UTC")
    count, low, high = (int(values[name]) for name in ("count", "low", "high"))
    if not 0 <= low <= high <= LARGEST_COUNT or not 0 <= count <= LARGEST_COUNT:
        raise ValueError(f"count, low and high are {count}, {low} and {high}")
    distance = values.get("distance")
    known = math.nan if distance in (None, "") else float(distance)
    text = {name: str(values.get(name) or "") for name in ("zone", "suspect", "adapter")}
    return ReadRow(
        time, str(values["camera"]), text["zone"], count, high - low, text["suspect"], known,
        text["adapter"],
    )  # fmt: skip


def _no_row(place: Path | str, reason: str) -> UserError:
    return UserError(
        f"{place}: is no row of `llava-dvc watch`: {reason}. Correct or delete the line."
    )
