"""`llava-dvc import --add`: new frames and labels beside those in `data/`.

A frame is recognised by its picture, whatever its name. Labels that are there stay.
"""

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from llava_dvc.data.data_errors import DataError, DataProblem, few_names, printable_name
from llava_dvc.data.folders import FrameFiles
from llava_dvc.data.labels import RECORD, Label, natural_key, read_labels
from llava_dvc.data.points import POINTS, Points, PointTable
from llava_dvc.data.table import write_table
from llava_dvc.errors import UserError
from llava_dvc.files import file_digest

Say = Callable[[str], object]


def add_frames(staged: Path, data: Path, merged: Path, say: Say) -> None:
    """Writes the frames and labels in `data` and in `staged` to `merged`.

    Raises UserError: for a frame of the same name with another picture, and for new frames
    without the cameras or the points that the others have.
    """
    if not (data / "frames").is_dir():
        raise UserError(
            f"{data / 'frames'}: not found. Import without --add: there is nothing yet."
        )
    names = _copy_frames(staged, data, merged)
    old = {label.name: label for label in _labels_in(data)}
    new = {names[label.name]: label for label in _labels_in(staged)}
    added = {name: label for name, label in new.items() if name not in old}
    both = {**old, **added}
    cameras = _cameras(data, old, added)
    points = _points(staged, data, old, added)
    order = sorted(both, key=natural_key)
    camera = {name: [cameras[name]] if cameras else [] for name in order}
    columns = ["frame", "count", *(["camera"] if cameras else [])]
    rows = ([name, both[name].count, *camera[name]] for name in order)
    write_table(merged / "labels.csv", columns, rows)
    if points is not None:
        heads = ([name, x, y] for name in order for x, y in points[name])
        write_table(merged / POINTS, ["frame", "x", "y"], heads)
    elif (staged / POINTS).exists():
        say(f"No {POINTS} is written: the people of the frames before are only counted.\n")
    if (data / RECORD).exists():
        shutil.copyfile(data / RECORD, merged / RECORD)
    _tell(data, old, new, say)


def _labels_in(folder: Path) -> list[Label]:
    table = folder / "labels.csv"
    return read_labels(table) if table.exists() else []


# --- pictures -----------------------------------------------------------------------------------


def _copy_frames(staged: Path, data: Path, merged: Path) -> dict[str, str]:
    """Copies all frames; returns the name that each frame of `staged` has in `merged`."""
    folder = merged / "frames"
    shutil.copytree(data / "frames", folder, symlinks=True, copy_function=_link)
    ours = {name: file_digest(data / "frames" / name) for name in FrameFiles(data).names}
    by_digest = {digest: name for name, digest in sorted(ours.items(), reverse=True)}
    names, problems = {}, []
    for name in sorted(FrameFiles(staged).names):
        digest = file_digest(staged / "frames" / name)
        if ours.get(name, digest) != digest:
            text = f"is another picture in {data / 'frames'}. Rename one, and its annotation."
            problems.append(
                DataProblem("other picture", str(staged), f"frame {printable_name(name)} {text}")
            )
        names[name] = name if name in ours else by_digest.get(digest, name)
        if names[name] not in ours:
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(staged / "frames" / name, target)
    if problems:
        raise DataError(problems)
    return names


def _link(source: str, target: str) -> None:
    """A second name for a file, where the disk can have one; else a copy."""
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        shutil.copy2(source, target, follow_symlinks=False)


# --- cameras and points -------------------------------------------------------------------------


def _cameras(data: Path, old: Mapping[str, Label], added: Mapping[str, Label]) -> dict[str, str]:
    """The camera of every frame; empty if none has one. Raises UserError."""
    cameras = {name: label.camera for name, label in (*old.items(), *added.items())}
    lacking = [name for name, camera in cameras.items() if not camera]
    if len(lacking) == len(cameras):
        return {}
    if lacking:
        raise UserError(
            f"{data / 'labels.csv'}: some frames have a camera, but {few_names(lacking)} have "
            "none. Write the column `camera` for all of them, there and in the source."
        )
    return {name: str(camera) for name, camera in cameras.items()}


def _points(
    staged: Path, data: Path, old: Mapping[str, Label], added: Mapping[str, Label]
) -> dict[str, Points] | None:
    """The points of every frame; None if those of some are unknown and there were none.

    Raises UserError if `data` has points and some new frame has none.
    """
    ours, theirs = (
        PointTable(folder / POINTS, ()) if (folder / POINTS).exists() else None
        for folder in (data, staged)
    )
    unknown = [] if theirs else [name for name, label in added.items() if label.count]
    if ours and unknown:
        raise UserError(
            f"{data / POINTS}: has the people of all frames, but those of {few_names(unknown)} are "
            "only counted. Mark them, or delete this file."
        )
    if not ours and (old or not theirs):
        return None
    before = {name: ours.points_of(name) if ours else [] for name in old}
    new = {name: theirs.points_of(label.name) if theirs else [] for name, label in added.items()}
    return {**before, **new}


# --- words --------------------------------------------------------------------------------------


def _tell(data: Path, old: Mapping[str, Label], new: Mapping[str, Label], say: Say) -> None:
    kept = [name for name, label in new.items() if name in old and old[name].count != label.count]
    added = len(new.keys() - old.keys())
    say(f"Labels: {added} new, {len(new) - added - len(kept)} equal to those in {data}.\n")
    if kept:
        shown = few_names([f"{name} ({old[name].count}, not {new[name].count})" for name in kept])
        say(
            f"Labels that differ, and stay as they are in {data}: {shown}. To take a new one, "
            "delete its line in labels.csv and run this again.\n"
        )
