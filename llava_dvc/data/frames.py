"""Read and check `data/`: the frames, labels.csv and messages.txt.

Every problem of the folder is found in one pass. `docs/data.md` lists what is accepted, what is
mended in silence and what is refused.
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from llava_dvc.conversation import Conversation
from llava_dvc.data.data_errors import DataError, Problem, plain, shown
from llava_dvc.data.decode_cache import Checked
from llava_dvc.data.folders import Files, folded, inside, link
from llava_dvc.data.images import PictureError, read_bytes, rgb
from llava_dvc.data.labels import (
    Label,
    scan_labels,
)
from llava_dvc.data.messages import scan_conversations

CHUNK = 512
"""Frames under way at once: what keeps memory flat."""


@dataclass(frozen=True)
class Frame:
    """One labelled picture; `name` is its path inside `frames/`, `count` the people in it."""

    name: str
    count: int
    path: Path
    camera: str | None


class Found(NamedTuple):
    """What can be used of a data folder, and everything that cannot."""

    frames: list[Frame]
    conversations: list[Conversation]
    problems: list[Problem]


def scan_data(data: Path, exclude: Sequence[str], checked: Checked | None = None) -> Found:
    """Everything in `data`, less the frames named in `exclude`, and everything wrong with it.

    Frames are in natural order of name, which is the order of time. Every picture is decoded once,
    less those that `checked` knows by their bytes.
    """
    conversations, problems = scan_conversations(data)
    absent = _absent(data)
    if absent:
        return Found([], [], absent if not data.is_dir() else absent + problems)
    frames, bad = _scan_frames(data, exclude, checked or Checked.forgetful())
    return Found(frames, conversations, bad + problems)


def read_frames(data: Path, exclude: Sequence[str]) -> list[Frame]:
    """All labelled frames of `data`, less those named in `exclude`, in natural order of name.

    Raises DataError with everything that is wrong.
    """
    problems = _absent(data)
    frames: list[Frame] = []
    if not problems:
        frames, problems = _scan_frames(data, exclude, Checked.forgetful())
    if problems:
        raise DataError(problems)
    return frames


def _absent(data: Path) -> list[Problem]:
    remedy = (
        "Run `dvc pull data.dvc` for the sample, `llava-dvc import-mall SRC` for the Mall data "
        "set, or put your own there (see README)."
    )
    if not data.is_dir():
        return [Problem("absent", str(data), f"folder not found. {remedy}", skippable=False)]
    problems = []
    for path, is_there in ((data / "frames", Path.is_dir), (data / "labels.csv", Path.is_file)):
        if not is_there(path):
            problems.append(Problem("absent", str(path), f"not found. {remedy}", skippable=False))
        elif not inside(path, data):
            problems.append(link(path, data))
    return problems


def _scan_frames(
    data: Path, exclude: Sequence[str], checked: Checked
) -> tuple[list[Frame], list[Problem]]:
    labels = scan_labels(data / "labels.csv", exclude)
    if not labels.readable:
        return [], labels.problems
    files = Files(data)
    good, problems = _pictures(data, labels.rows, files, checked)
    problems = [*labels.problems, *problems, *_only_in_case(data, labels.rows)]
    spoilt = {problem.frame for problem in problems if problem.kind == "case"}
    problems += files.unlabelled(labels.names | set(exclude))
    known = files.names | labels.names
    problems += [_unmatched(data, name) for name in exclude if name not in known]
    frames = [
        Frame(x.name, x.count, data / "frames" / x.name, x.camera)
        for x in good
        if x.name not in spoilt
    ]
    if not frames:
        text = "no frame is left. Add labels, mend them, or exclude fewer."
        problems.append(Problem("nothing", str(data / "labels.csv"), text, skippable=False))
    return frames, problems


def _pictures(
    data: Path, labels: Sequence[Label], files: Files, checked: Checked
) -> tuple[list[Label], list[Problem]]:
    """The labels whose pictures are whole and unlike all others, and a problem for each other."""
    good: dict[str, Label] = {}
    first: dict[bytes, Label] = {}
    problems: list[Problem] = []
    for label, seen in _looked_at(data, labels, files, checked):
        if isinstance(seen, Problem):
            problems.append(seen)
            continue
        twin = first.setdefault(seen, label)
        if twin is label:
            good[label.name] = label
        elif twin.count == label.count:
            problems.append(_problem(data, label, "duplicate", f"is the same file as {twin.name}"))
        else:
            for here, there in ((label, twin), (twin, label)):
                reason = f"is the same file as {there.name}, whose count is {there.count}"
                problems.append(_problem(data, here, "contradiction", reason))
            good.pop(twin.name, None)
    checked.save()
    return list(good.values()), list(dict.fromkeys(problems))


def _looked_at(
    data: Path, labels: Sequence[Label], files: Files, checked: Checked
) -> Iterator[tuple[Label, bytes | Problem]]:
    """Each label with the digest of its picture, or what is wrong with that."""

    def look(label: Label) -> bytes | Problem:
        path = data / "frames" / label.name
        try:
            if label.name not in files.plain and path.exists() and not inside(path, data):
                return link(path, data, label.name)
            content = read_bytes(path)
            digest = hashlib.sha256(content).digest()
            if digest not in checked:
                rgb(content)
            return digest
        except PictureError as error:
            hint = files.alike(label.name) if error.kind == "missing" else ""
            return _problem(data, label, error.kind, str(error), hint)
        except OSError as error:  # a name too long, a folder that may not be entered
            return _problem(data, label, "unreadable", f"cannot be read ({error.strerror})")

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow decodes outside the GIL
        for start in range(0, len(labels), CHUNK):
            chunk = labels[start : start + CHUNK]
            for label, seen in zip(chunk, pool.map(look, chunk), strict=True):
                if isinstance(seen, bytes):
                    checked.add(seen)
                yield label, seen


def _problem(data: Path, label: Label, kind: str, reason: str, hint: str = "") -> Problem:
    remedy = "Add the file, delete the line," if kind == "missing" else "Replace the file,"
    leave_out = f"{remedy} or list {plain(label.name)} under data.exclude in params.yaml."
    text = f"frame {data / 'frames' / plain(label.name)} {reason}.{hint} {leave_out}"
    return Problem(kind, f"{data / 'labels.csv'}:{label.line}", text, label.name)


def _only_in_case(data: Path, labels: Sequence[Label]) -> Iterator[Problem]:
    first: dict[str, Label] = {}
    for label in labels:
        twin = first.setdefault(folded(label.name), label)
        if twin is not label:
            text = (
                f"frame {plain(label.name)} differs only in case or accents from "
                f"{plain(twin.name)}, and many disks keep only one of them. Rename one."
            )
            yield Problem("case", f"{data / 'labels.csv'}:{label.line}", text, label.name)


def _unmatched(data: Path, name: str) -> Problem:
    text = (
        f"data.exclude: {shown(name)} is no frame of {data}. Write its name as inside frames/, or "
        "remove the entry."
    )
    return Problem("exclude", "params.yaml", text, skippable=False)
