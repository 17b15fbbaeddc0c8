"""labels.csv, read and written.

Lenient where a table can mean only one thing (a byte order mark, Windows line ends, semicolons or
tabs, quotes, blanks, capitals in the header, zero-padded ids), exact everywhere else.
"""

import csv
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from llava_dvc.data.data_errors import DataError, Problem, shown

MAX_COUNT = 9999
"""The largest count that an answer can be; see evaluate.max_count."""

_HEADERS = [{key, "count"} | camera for key in ("id", "frame") for camera in (set(), {"camera"})]
_NOT_UTF8 = re.compile("[\udc80-\udcff]")  # what `surrogateescape` makes of such bytes


@dataclass(frozen=True, slots=True)
class Label:
    """One row of labels.csv; `line` is where it stands, counted from 1."""

    line: int
    name: str
    count: int
    camera: str | None


@dataclass
class Labels:
    """A labels.csv: the good rows in natural order, a problem for each bad one, all names in it."""

    rows: list[Label] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    names: set[str] = field(default_factory=set)
    readable: bool = True
    """False when the table as a whole is not."""


class _Bad(ValueError):
    """Why a row cannot be used."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


def read_labels(path: Path) -> list[Label]:
    """The rows of a labels.csv in natural order of frame name; raises DataError."""
    labels = scan_labels(path, exclude=())
    if labels.problems:
        raise DataError(labels.problems)
    return labels.rows


def write_labels(path: Path, counts: Mapping[int, int]) -> None:
    """Write `id,count` lines; the id is the number in `seq_%06d.jpg`."""
    lines = [f"{number},{count}\n" for number, count in sorted(counts.items())]
    path.write_text("id,count\n" + "".join(lines), encoding="utf-8")


def scan_labels(path: Path, exclude: Sequence[str]) -> Labels:
    """Sort the rows into good and bad; excluded frames are in neither, only among the names.

    A line is a row, whatever quotes are open: one bad line cannot swallow the next.
    """
    found, left_out = Labels(), frozenset(exclude)
    good: dict[str, list[Label]] = {}
    with path.open(encoding="utf-8-sig", errors="surrogateescape") as file:
        try:
            first = file.readline().rstrip("\n")
            header, delimiter = _header(first)
        except _Bad as error:
            problem = Problem(error.kind, f"{path}:1", str(error), skippable=False)
            return Labels(problems=[problem], readable=False)
        for line, text in enumerate(file, start=2):
            name = None
            try:
                row = _row(header, text.rstrip("\n"), delimiter)
                if row is None:
                    continue
                name = _name(row)
                found.names.add(name)
                if name not in left_out:
                    label = Label(line, name, _count(row, name), _camera(row))
                    good.setdefault(name, []).append(label)
            except _Bad as error:
                found.problems.append(Problem(error.kind, f"{path}:{line}", str(error), name))
    for labels in good.values():
        repeated = _repeated(path, labels) if len(labels) > 1 else []
        found.problems += repeated
        if len(repeated) < len(labels):
            found.rows.append(labels[0])
    found.rows.sort(key=lambda label: natural_key(label.name))
    return found


def natural_key(name: str) -> str:
    """Sorts numbers inside names by value: `cam2/9.jpg` before `cam2/10.jpg`.

    A number becomes a sign below all others, its length and its digits: one string, as a million
    of them stay in memory at once.
    """
    return re.sub(r"[0-9]+", _by_value, name) + "\0\0" + name


def _by_value(number: re.Match[str]) -> str:
    digits = number[0].lstrip("0")
    return f"\0{chr(len(digits) + 1)}{digits}"


def frame_name(number: int) -> str:
    """The file name that an `id` of labels.csv stands for."""
    return f"seq_{number:06d}.jpg"


def _repeated(path: Path, labels: Sequence[Label]) -> list[Problem]:
    """Equal rows count once; of different ones nobody knows which is right, and all go."""
    first, *others = labels
    if all((x.count, x.camera) == (first.count, first.camera) for x in others):
        text = f"{first.name} has the same label on line {first.line}. Keep only one."
        return [Problem("twice", f"{path}:{x.line}", text, x.name) for x in others]
    lines = ", ".join(f"{x.count} on line {x.line}" for x in labels[:5])
    text = f"{first.name} has different labels: {lines}. Keep the right one."
    return [Problem("contradiction", f"{path}:{x.line}", text, x.name) for x in labels]


def _header(text: str) -> tuple[list[str], str]:
    """The columns and what separates them."""
    if _NOT_UTF8.search(text) or "\0" in text:
        raise _Bad("encoding", "the file is not UTF-8. Save it as UTF-8.")
    for delimiter in (",", ";", "\t"):
        try:
            header = [cell.lower() for cell in _cells(text, delimiter)]
        except _Bad:
            continue
        if set(header) in _HEADERS and len(set(header)) == len(header):
            return header, delimiter
    raise _Bad(
        "header",
        f"header is {shown(text)}, expected `id,count` or `frame,count`, with `,camera` if there "
        "are several. Mend the first line.",
    )


def _cells(text: str, delimiter: str) -> list[str]:
    if '"' not in text:
        return [cell.strip() for cell in text.split(delimiter)]
    try:
        reader = csv.reader([text], delimiter=delimiter, strict=True, skipinitialspace=True)
        return [cell.strip() for cell in next(reader, [])]
    except csv.Error as error:
        raise _Bad("row", f"{shown(text)}: {error}. Mend the quotes there.") from None


def _row(header: Sequence[str], text: str, delimiter: str) -> dict[str, str] | None:
    """None for a line that holds nothing."""
    if not text.strip(f"{delimiter} \t"):
        return None
    if _NOT_UTF8.search(text):
        raise _Bad("encoding", f"{shown(text)} is not UTF-8. Save the file as UTF-8.")
    cells = _cells(text, delimiter)
    if len(cells) != len(header):
        raise _Bad(
            "row",
            f"{shown(text)} has {len(cells)} values, expected {len(header)} ({','.join(header)}). "
            "Mend the line.",
        )
    return dict(zip(header, cells, strict=True))


def _name(row: Mapping[str, str]) -> str:
    if "id" not in row:
        return _inner_path(row["frame"])
    if not re.fullmatch(r"[0-9]{1,9}", row["id"]):
        raise _Bad(
            "id",
            f"id is {shown(row['id'])}, expected the number in frames/seq_NNNNNN.jpg. Mend the "
            "line.",
        )
    return frame_name(int(row["id"]))


def _inner_path(text: str) -> str:
    path = PurePosixPath(text)
    odd = "\\" in text or any(unicodedata.category(sign) in {"Cc", "Zl", "Zp"} for sign in text)
    leaves = path.is_absolute() or ".." in path.parts
    if path.parts and text == path.as_posix() and not odd and not leaves:
        return text
    raise _Bad(
        "name", f"frame is {shown(text)}, expected a path inside frames/, such as cam1/0001.jpg."
    )


def _count(row: Mapping[str, str], name: str) -> int:
    text = row["count"]
    if re.fullmatch(r"[0-9]{1,6}", text) and int(text) <= MAX_COUNT:
        return int(text)
    raise _Bad(
        "count",
        f"count is {shown(text)}, expected a whole number from 0 to {MAX_COUNT}. Fix the label, or "
        f"list {name} under data.exclude in params.yaml.",
    )


def _camera(row: Mapping[str, str]) -> str | None:
    if row.get("camera") == "":
        raise _Bad("camera", "camera is blank. Name it, or leave the column out.")
    return row.get("camera")
