"""Reads and checks `data/`: the frames, labels.csv, messages.txt and points.csv.

One pass finds every problem. `docs/data.md` lists what is accepted and what is refused.
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from llava_dvc.conversation import Conversation
from llava_dvc.data.data_errors import DataError, DataProblem, printable_name, quoted
from llava_dvc.data.decode_cache import DecodeCache
from llava_dvc.data.folders import (
    UNLABELLED,
    FrameFiles,
    is_inside,
    link_problem,
    normalized_name,
)
from llava_dvc.data.images import ImageError, decode_image, is_picture_name, read_image_bytes
from llava_dvc.data.labels import Label, scan_labels
from llava_dvc.data.messages import scan_conversations
from llava_dvc.data.points import POINTS, Points, PointTable
from llava_dvc.recipe import Polygon

CHUNK = 512
"""Frames given to the threads at once. Memory does not grow with the number of frames."""


@dataclass(frozen=True)
class Frame:
    """One labelled image; `name` is its path inside `frames/`, `count` the people in it."""

    name: str
    count: int
    path: Path
    camera: str | None
    points: Points | None = None
    """Where each of the people is; None if `data` has no points."""
    zone: Polygon | None = None
    """The outline of the area in which people are counted; None is the whole frame."""


class DataScan(NamedTuple):
    """The frames and conversations that can be used, and the problems of all others."""

    frames: list[Frame]
    conversations: list[Conversation]
    problems: list[DataProblem]


def scan_data(data: Path, exclude: Sequence[str], cache: DecodeCache | None = None) -> DataScan:
    """Reads all of `data`, except the frames named in `exclude`.

    Frames are in natural order of name, which is the order of time. Images in `cache` are not
    decoded again.
    """
    conversations, problems = scan_conversations(data)
    missing = missing_parts(data)
    if missing:
        return DataScan([], [], missing if not data.is_dir() else missing + problems)
    frames, frame_problems = _scan_frames(data, exclude, cache or DecodeCache())
    return DataScan(frames, conversations, frame_problems + problems)


def take_unlabelled(problems: Sequence[DataProblem]) -> tuple[list[str], list[DataProblem]]:
    """The names of the pictures that have no label, and all other problems.

    A file without the suffix of a picture stays a problem.
    """
    waiting, others = [], []
    for problem in problems:
        name = problem.frame or ""
        if problem.kind == UNLABELLED and is_picture_name(name):
            waiting.append(name)
        else:
            others.append(problem)
    return waiting, others


def read_frames(data: Path, exclude: Sequence[str]) -> list[Frame]:
    """All labelled frames of `data` except those named in `exclude`, in natural order of name.

    Raises DataError with every problem; messages.txt is not read.
    """
    frames, problems = scan_frames(data, exclude)
    if problems:
        raise DataError(problems)
    return frames


def scan_frames(data: Path, exclude: Sequence[str]) -> tuple[list[Frame], list[DataProblem]]:
    """The frames that can be used, and the problems of all others; messages.txt is not read."""
    if missing := missing_parts(data):
        return [], missing
    return _scan_frames(data, exclude, DecodeCache())


def missing_parts(data: Path) -> list[DataProblem]:
    """Problems of `data` itself, of frames/, labels.csv and points.csv: absent, or links out of
    `data`.
    """
    remedy = (
        "To restore it, run `git checkout data.dvc && dvc pull data.dvc`. For frames of your own, "
        "run `llava-dvc import FOLDER_OR_ZIP` (see README)."
    )
    if not data.is_dir():
        return [DataProblem("absent", str(data), f"folder not found. {remedy}", skippable=False)]
    problems = []
    parts = [(data / "frames", Path.is_dir), (data / "labels.csv", Path.is_file)]
    if os.path.lexists(data / POINTS):
        parts.append((data / POINTS, Path.is_file))
    for path, is_there in parts:
        if not is_there(path):
            text = f"not found. {remedy}"
            problems.append(DataProblem("absent", str(path), text, skippable=False))
        elif not is_inside(path, data):
            problems.append(link_problem(path, data))
    return problems


def _scan_frames(
    data: Path, exclude: Sequence[str], cache: DecodeCache
) -> tuple[list[Frame], list[DataProblem]]:
    table = scan_labels(data / "labels.csv", exclude)
    if not table.readable:
        return [], table.problems
    files = FrameFiles(data)
    labels, image_problems = _check_images(table.rows, files, cache)
    case_problems = list(_case_problems(data, table.rows))
    points = PointTable(data / POINTS, exclude) if (data / POINTS).exists() else None
    point_problems = list(points.check(labels, table.names, files.folder)) if points else []
    problems = [*table.problems, *image_problems, *case_problems, *point_problems]
    problems += files.unlabelled_problems(table.names | set(exclude))
    known = files.names | table.names
    problems += [_exclude_problem(data, name) for name in exclude if name not in known]
    refused = {problem.frame for problem in case_problems + point_problems}
    frames = [_frame(label, files, points) for label in labels if label.name not in refused]
    if not frames:
        text = "no frame is left. Add labels, correct them, or exclude fewer frames."
        problems.append(DataProblem("nothing", str(data / "labels.csv"), text, skippable=False))
    return frames, problems


def _frame(label: Label, files: FrameFiles, points: PointTable | None) -> Frame:
    here = points.points_of(label.name) if points else None
    return Frame(label.name, label.count, files.folder / label.name, label.camera, here)


def _check_images(
    labels: Sequence[Label], files: FrameFiles, cache: DecodeCache
) -> tuple[list[Label], list[DataProblem]]:
    """The labels whose images can be decoded and are unique, and the problems of all others."""
    valid: dict[str, Label] = {}
    first: dict[bytes, Label] = {}
    problems: list[DataProblem] = []
    for label, result in _decode_images(labels, files, cache):
        if isinstance(result, DataProblem):
            problems.append(result)
            continue
        twin = first.setdefault(result, label)
        if twin is label:
            valid[label.name] = label
            continue
        problems += _twin_problems(files.data, label, twin)
        if twin.count != label.count:
            valid.pop(twin.name, None)
    cache.save()
    return list(valid.values()), list(dict.fromkeys(problems))


def _twin_problems(data: Path, label: Label, twin: Label) -> list[DataProblem]:
    """The problems of two frames whose files are equal; `twin` stays valid if the labels agree."""
    if twin.count == label.count:
        return [_image_problem(data, label, "duplicate", f"is the same file as {twin.name}")]
    return [
        _image_problem(
            data,
            here,
            "contradiction",
            f"is the same file as {there.name}, whose count is {there.count}",
        )
        for here, there in ((label, twin), (twin, label))
    ]


def _decode_images(
    labels: Sequence[Label], files: FrameFiles, cache: DecodeCache
) -> Iterator[tuple[Label, bytes | DataProblem]]:
    """Each label with the SHA-256 of its image, or with the problem of it."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow decodes without holding the GIL
        for start in range(0, len(labels), CHUNK):
            chunk = labels[start : start + CHUNK]
            results = pool.map(lambda label: _decode_one(label, files, cache), chunk)
            for label, result in zip(chunk, results, strict=True):
                if isinstance(result, bytes):
                    cache.add(result)
                yield label, result


def _decode_one(label: Label, files: FrameFiles, cache: DecodeCache) -> bytes | DataProblem:
    data, path = files.data, files.folder / label.name
    try:
        if label.name not in files.regular and path.exists() and not is_inside(path, data):
            return link_problem(path, data, label.name)
        content = read_image_bytes(path)
        digest = hashlib.sha256(content).digest()
        if digest not in cache:
            decode_image(content)
        return digest
    except ImageError as error:
        hint = files.name_hint(label.name) if error.kind == "missing" else ""
        return _image_problem(data, label, error.kind, str(error), hint)
    except OSError as error:  # the name is too long, or the folder may not be entered
        return _image_problem(data, label, "unreadable", f"cannot be read ({error.strerror})")


def _image_problem(data: Path, label: Label, kind: str, reason: str, hint: str = "") -> DataProblem:
    action = "Add the file, delete the line," if kind == "missing" else "Replace the file,"
    remedy = f"{action} or list {printable_name(label.name)} under data.exclude in params.yaml."
    text = f"frame {data / 'frames' / printable_name(label.name)} {reason}.{hint} {remedy}"
    return DataProblem(kind, f"{data / 'labels.csv'}:{label.line}", text, label.name)


def _case_problems(data: Path, labels: Sequence[Label]) -> Iterator[DataProblem]:
    """A problem for each name that differs only in case or accents from an earlier one."""
    first: dict[str, Label] = {}
    for label in labels:
        twin = first.setdefault(normalized_name(label.name), label)
        if twin is not label:
            text = (
                f"frame {printable_name(label.name)} differs only in case or accents from "
                f"{printable_name(twin.name)}. Rename one: many disks keep only one of them."
            )
            yield DataProblem("case", f"{data / 'labels.csv'}:{label.line}", text, label.name)


def _exclude_problem(data: Path, name: str) -> DataProblem:
    text = (
        f"data.exclude: {quoted(name)} is not a frame of {data}. Write its path inside frames/, or "
        "remove the entry."
    )
    return DataProblem("exclude", "params.yaml", text, skippable=False)
