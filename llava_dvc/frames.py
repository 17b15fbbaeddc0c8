"""Read and check `data/`: the frames, labels.csv and messages.txt.

Every problem of the folder is found in one pass and raised together as one `DataError`.
"""

import csv
import json
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from PIL import Image

from llava_dvc.config import UserError

MAX_PIXELS = 64_000_000
"""Larger images are refused before they are decoded, so that a small file cannot fill memory."""

IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")
"""The only decoders tried: some of Pillow's others start programs (EPS runs Ghostscript)."""

PLACEHOLDER = "{count}"
_HEADERS = [{key, "count"} | camera for key in ("id", "frame") for camera in (set(), {"camera"})]
_SHOWN = 20


class DataError(UserError):
    """Everything that is wrong with a data folder; `problems` has one line each."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = list(problems)
        more = [f"... and {len(problems) - _SHOWN} more"] if len(problems) > _SHOWN else []
        super().__init__("\n".join([*self.problems[:_SHOWN], *more]))


@dataclass(frozen=True)
class Frame:
    """One labelled picture; `name` is its path inside `frames/`, `count` the people in it."""

    name: str
    count: int
    path: Path
    camera: str | None


@dataclass(frozen=True)
class Label:
    """One row of labels.csv; `line` is where it stands, counted from 1."""

    line: int
    name: str
    count: int
    camera: str | None


class Labels(NamedTuple):
    """A labels.csv: the good rows in natural order, a line for each bad one, all names in it."""

    rows: list[Label]
    problems: list[str]
    names: set[str]


@dataclass(frozen=True)
class Conversation:
    """One phrasing: the question, and an answer in which `{count}` stands for the label."""

    question: str
    answer: str

    def messages(self, count: int | None) -> list[dict[str, Any]]:
        """The turns in Hugging Face form; with `count` None only the user's."""
        image, text = {"type": "image"}, {"type": "text", "text": self.question}
        turns: list[dict[str, Any]] = [{"role": "user", "content": [image, text]}]
        if count is not None:
            answer = self.answer.replace(PLACEHOLDER, str(count))
            turns.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
        return turns


# --- frames -----------------------------------------------------------------------------------


def read_frames(data: Path, exclude: Sequence[str]) -> list[Frame]:
    """All labelled frames of `data`, less those named in `exclude`, in natural order of name.

    That order is the order of time. Every picture is decoded once; raises DataError with
    everything that is wrong.
    """
    _require(data)
    labels = scan_labels(data / "labels.csv", exclude)
    found = _files(data / "frames")
    with ThreadPoolExecutor() as pool:  # Pillow decodes outside the interpreter lock
        pictures = pool.map(lambda label: _frame_problem(data, label), labels.rows)
        problems = labels.problems + [problem for problem in pictures if problem]
    problems += _unlabelled(data, found - labels.names - set(exclude))
    problems += _unmatched(data, [name for name in exclude if name not in found | labels.names])
    if not labels.rows and not problems:
        problems = [f"{data / 'labels.csv'}: no frame is left. Add labels, or exclude fewer."]
    if problems:
        raise DataError(problems)
    return [Frame(x.name, x.count, data / "frames" / x.name, x.camera) for x in labels.rows]


def natural_key(name: str) -> tuple[list[str | int], str]:
    """Sorts numbers inside names by value: `cam2/9.jpg` before `cam2/10.jpg`."""
    parts = re.split(r"([0-9]+)", name)
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], name


def frame_name(number: int) -> str:
    """The file name that an `id` of labels.csv stands for."""
    return f"seq_{number:06d}.jpg"


def image_problem(path: Path) -> str | None:
    """Why the picture cannot be used, or None; it is decoded to its last pixel."""
    try:
        with Image.open(path, formats=IMAGE_FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                return f"is {image.width}x{image.height}, more than {MAX_PIXELS:,} pixels"
            image.load()
    except Exception as error:  # broken bytes make Pillow raise almost anything
        reason = " ".join(str(error).split()).removesuffix(f" {str(path)!r}")
        return f"cannot be decoded ({reason or type(error).__name__})"
    return None


def _require(data: Path) -> None:
    remedy = (
        "Run `dvc pull data.dvc` for the sample, `llava-dvc import-mall SRC` for the Mall data "
        "set, or put your own there (see README)."
    )
    if not data.is_dir():
        raise DataError([f"{data}: folder not found. {remedy}"])
    missing = [data / "frames"] if not (data / "frames").is_dir() else []
    missing += [data / "labels.csv"] if not (data / "labels.csv").is_file() else []
    if missing:
        raise DataError([f"{path}: not found. {remedy}" for path in missing])


def _files(folder: Path) -> set[str]:
    """Names inside `folder`; hidden files (.DS_Store, .gitignore) are not frames."""
    names = (path.relative_to(folder) for path in folder.rglob("*") if not path.is_dir())
    return {name.as_posix() for name in names if not any(p.startswith(".") for p in name.parts)}


def _frame_problem(data: Path, label: Label) -> str | None:
    path = data / "frames" / label.name
    place = f"{data / 'labels.csv'}:{label.line}: frame {path}"
    leave_out = f"or list {label.name} under data.exclude in params.yaml."
    if not path.is_file():
        return f"{place} does not exist. Add the file, delete the line, {leave_out}"
    if not _inside(path, data):
        return f"{place} is a link to {path.resolve()}, outside {data}. Put the file itself there."
    if reason := image_problem(path):
        return f"{place} {reason}. Replace the file, {leave_out}"
    return None


def _inside(path: Path, data: Path) -> bool:
    target = path.resolve()
    # With `cache.type symlink` DVC itself links the frames to its cache.
    cached = re.search(r"/files/md5/[0-9a-f]{2}/[0-9a-f]{30}$", target.as_posix())
    return target.is_relative_to(data.resolve()) or cached is not None


def _unlabelled(data: Path, names: set[str]) -> list[str]:
    return [
        f"{data / 'frames' / name}: has no label in {data / 'labels.csv'}. Add a line there, "
        f"delete the file, or list {name} under data.exclude in params.yaml."
        for name in sorted(names, key=natural_key)
    ]


def _unmatched(data: Path, names: Sequence[str]) -> list[str]:
    return [
        f"params.yaml: data.exclude: {name!r} is no frame of {data}. Write its name as inside "
        "frames/, or remove the entry."
        for name in names
    ]


# --- labels.csv -------------------------------------------------------------------------------


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

    Raises DataError when the table as a whole cannot be read.
    """
    good: dict[str, Label] = {}
    names: set[str] = set()
    problems: list[str] = []
    left_out = frozenset(exclude)
    header, rows = _table(path)
    for line, cells in rows:
        try:
            row = _row(header, cells)
            name = _name(row)
            names.add(name)
            if name in left_out:
                continue
            if name in good:
                raise ValueError(f"{name} has a label on line {good[name].line}. Keep only one.")
            good[name] = Label(line, name, _count(row, name), _camera(row))
        except ValueError as error:
            problems.append(f"{path}:{line}: {error}")
    return Labels(sorted(good.values(), key=lambda x: natural_key(x.name)), problems, names)


def _table(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The header, and every row with its line; lines that hold nothing at all are passed over."""
    line = 0
    rows = []
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = _header(path, next(reader, []))
            for cells in reader:
                line = reader.line_num
                if cells:
                    rows.append((line, [cell.strip() for cell in cells]))
    except UnicodeDecodeError as error:
        raise DataError([f"{path}: byte {error.start} is not UTF-8. Save it as UTF-8."]) from None
    except csv.Error as error:
        raise DataError([f"{path}:{line + 1}: {error}. Mend the quotes there."]) from None
    return header, rows


def _header(path: Path, cells: Sequence[str]) -> list[str]:
    header = [cell.strip() for cell in cells]
    if set(header) in _HEADERS and len(set(header)) == len(header):
        return header
    raise DataError(
        [
            f"{path}:1: header is {','.join(cells)!r}, expected `id,count` or `frame,count`, with "
            "`,camera` if there are several. Mend the first line."
        ]
    )


def _row(header: Sequence[str], cells: Sequence[str]) -> dict[str, str]:
    if len(cells) != len(header):
        text = ",".join(cells)
        raise ValueError(
            f"{text!r} has {len(cells)} values, expected {len(header)} ({','.join(header)}). "
            "Mend the line."
        )
    return dict(zip(header, cells, strict=True))


def _name(row: Mapping[str, str]) -> str:
    if "id" not in row:
        return _inner_path(row["frame"])
    if not re.fullmatch(r"[0-9]{1,9}", row["id"]):
        raise ValueError(
            f"id is {row['id']!r}, expected the number in frames/seq_NNNNNN.jpg. Mend the line."
        )
    return frame_name(int(row["id"]))


def _inner_path(text: str) -> str:
    path = PurePosixPath(text)
    plain = text == path.as_posix() and "\\" not in text and text.isprintable()
    if plain and not path.is_absolute() and path.parts and ".." not in path.parts:
        return text
    raise ValueError(f"frame is {text!r}, expected a path inside frames/, such as cam1/0001.jpg.")


def _count(row: Mapping[str, str], name: str) -> int:
    if re.fullmatch(r"[0-9]{1,6}", row["count"]):
        return int(row["count"])
    raise ValueError(
        f"count is {row['count']!r}, expected a whole number >= 0. Fix the label, or list {name} "
        "under data.exclude in params.yaml."
    )


def _camera(row: Mapping[str, str]) -> str | None:
    if row.get("camera") == "":
        raise ValueError("camera is blank. Name it, or leave the column out.")
    return row.get("camera")


# --- messages.txt -----------------------------------------------------------------------------


def read_conversations(data: Path) -> list[Conversation]:
    """The phrasings of messages.txt; raises DataError with every bad line.

    Blank lines and lines that start with # are comments.
    """
    path = data / "messages.txt"
    if not path.is_file():
        remedy = "Run `dvc pull data.dvc`, or write one example conversation per line (see README)."
        raise DataError([f"{path}: not found. {remedy}"])
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise DataError([f"{path}: byte {error.start} is not UTF-8. Save it as UTF-8."]) from None
    conversations, problems = [], []
    for number, line in enumerate(lines, start=1):
        if line.strip() and not line.startswith("#"):
            try:
                conversations.append(parse_conversation(line))
            except ValueError as error:
                problems.append(f"{path}:{number}: {error}")
    if not conversations and not problems:
        problems = [f"{path}: holds no conversation. Write at least one line (see README)."]
    if problems:
        raise DataError(problems)
    return conversations


def format_conversation(conversation: Conversation) -> str:
    """One line of messages.txt, without its line end."""
    user = conversation.messages(count=None)
    content = [{"type": "text", "text": conversation.answer}]
    messages = [*user, {"role": "assistant", "content": content}]
    return json.dumps({"messages": messages}, ensure_ascii=False)


def parse_conversation(line: str) -> Conversation:
    """The inverse of format_conversation; raises ValueError."""
    try:
        example = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} at column {error.colno}. Mend it.") from None
    except RecursionError:
        raise ValueError("not JSON: nested too deeply. Mend it.") from None
    match example:
        case {"messages": [{"role": "user", "content": asked}, answered]}:
            question = _question(asked)
        case _:
            raise ValueError(f"{_MESSAGES} {_EXAMPLE}")
    match answered:
        case {"role": "assistant", "content": [{"type": "text", "text": str(answer)}]}:
            return Conversation(question, _answer(answer))
        case _:
            raise ValueError(f"expected one assistant text as the second message. {_EXAMPLE}")


_MESSAGES = "expected `messages` with one user and then one assistant message."
_EXAMPLE = f"Write it as {format_conversation(Conversation('How many people?', PLACEHOLDER))}"


def _question(content: object) -> str:
    match content:
        case [{"type": "image"}, {"type": "text", "text": str(text)}]:
            pass
        case _:
            raise ValueError(f"expected one image and then one text from the user. {_EXAMPLE}")
    if not text.strip():
        raise ValueError("the question is blank. Write one.")
    for mark in (PLACEHOLDER, "<image>"):
        if mark in text:
            raise ValueError(f"the question holds {mark}, which is put in for you. Remove it.")
    return text


def _answer(text: str) -> str:
    if text != PLACEHOLDER:
        raise ValueError(
            f"the assistant text is {text!r}, expected just {PLACEHOLDER}: answers are trained "
            "and read as digits only."
        )
    return text
