"""`llava-dvc import SOURCE`: frames with annotations of any known format become `data/`."""

import csv
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from llava_dvc.data.data_errors import DataError, DataProblem, printable_name
from llava_dvc.data.folders import require_own_file
from llava_dvc.data.imports.add_frames import add_frames
from llava_dvc.data.imports.annotations import ImportChoices
from llava_dvc.data.imports.formats.known import FORMATS, OWN, recognise_format
from llava_dvc.data.imports.import_files import ImportFiles, list_import_files
from llava_dvc.data.imports.import_folder import import_folder, replace_data
from llava_dvc.data.imports.mall import (
    require_replaceable,
    stage_mall,
    stage_messages,
    with_user_paths,
)
from llava_dvc.data.imports.resolve import LabelledPicture, Resolved, resolve_reading
from llava_dvc.data.imports.staged_frames import (
    STRICT,
    ImportRules,
    check_staged,
    keep_record,
)
from llava_dvc.data.imports.zip_archive import unpack_zip
from llava_dvc.data.points import POINTS
from llava_dvc.data.zones import frames_in_zone
from llava_dvc.errors import UserError

UNPACKED, STAGED = "unpacked", "staged"
"""Folders of one import: the content of a zip, and what may become `data`."""

_SUFFIXES = {".json", ".xml", ".csv", ".txt", ".yaml", ".yml", ".names", ".mat"}


@dataclass(frozen=True)
class ImportPlan:
    """What `llava-dvc import` is asked for."""

    source: Path
    """A folder, a zip, or an annotation file."""
    format: str | None
    """A name in FORMATS, OWN, or None to recognise it."""
    frames: Path | None
    """The folder of the pictures, if they are not in `source`."""
    choices: ImportChoices
    rules: ImportRules = STRICT
    add: bool = False
    """Frames and labels are added to those in `data`, instead of replacing them."""


def import_source(plan: ImportPlan, data: Path, say: Callable[[str], object]) -> int:
    """Puts the frames and labels in the source into `data`; returns how many labels `data` has.

    `say` gets lines that tell what was found. `data` is replaced in one step after all checks.
    Raises UserError, with all problems at once. Call `dvc_add` next.
    """
    with import_folder(data) as folder:
        require_replaceable(data)
        unpacked, staged, merged = folder / UNPACKED, folder / STAGED, folder / "merged"

        def tell(text: str) -> None:
            say(text.replace(str(unpacked), str(plan.source)))

        try:
            messages = _stage_source(plan, data, folder, tell)
            if plan.add:
                add_frames(staged, data, merged, say)
            else:
                keep_record(data, staged)
            found = merged if plan.add else staged
            stage_messages(messages or staged, data, found)
            frames = check_staged(found, plan.rules)
            if plan.add:
                frames_in_zone(frames, found, plan.rules.zone)
        except UserError as error:
            paths = {unpacked: plan.source, staged: plan.source, merged: data}
            raise with_user_paths(error, paths) from None
        replace_data(data, found, folder)
    return len(frames)


def _stage_source(
    plan: ImportPlan, data: Path, folder: Path, say: Callable[[str], object]
) -> Path | None:
    """Writes frames/, labels.csv and points.csv to staged/ in `folder`.

    Returns the folder in which a messages.txt may be.
    """
    unpacked, staged = folder / UNPACKED, folder / STAGED
    name, files = plan.format, None
    if name != OWN:
        files = _list_source(plan, unpacked, data)
        name = name or recognise_format(files)
    if files and name != OWN:
        _stage_annotated(files, replace(plan, format=name), staged, say)
        return files.messages_root
    if not plan.format:
        say(f"{plan.source}: frames with a labels.csv of our own form, or Mall.\n")
    shutil.rmtree(unpacked, ignore_errors=True)
    is_table = plan.source.suffix.lower() != ".zip" and plan.source.is_file()
    return stage_mall(plan.source.parent if is_table else plan.source, unpacked, staged, plan.rules)


def _list_source(plan: ImportPlan, unpacked: Path, data: Path) -> ImportFiles:
    source = plan.source
    if not source.exists():
        raise UserError(f"{source}: no such file or folder. Check the path.")
    if source.is_dir():
        return list_import_files(source, None, plan.frames, data)
    if source.suffix.lower() == ".zip":
        return list_import_files(unpack_zip(source, unpacked, _SUFFIXES), None, plan.frames, data)
    return list_import_files(source.parent, source, plan.frames, data)


def _stage_annotated(
    files: ImportFiles, plan: ImportPlan, staged: Path, say: Callable[[str], object]
) -> None:
    """Writes frames/, labels.csv and points.csv to `staged`."""
    known = FORMATS[plan.format or ""]
    paths = known.find(files) or files.with_suffix(*known.suffixes)
    if not paths:
        raise UserError(
            f"{plan.source}: no files of {known.title} ({', '.join(known.suffixes)}) there. Check "
            "the path and --format."
        )
    for path in paths:
        require_own_file(path, files.root)
    reading = known.read(files, paths, plan.choices)
    if not reading.records:
        raise DataError(reading.problems or [_nothing(paths[0])])
    resolved = resolve_reading(reading, files.pictures, plan.choices)
    shown = printable_name(str(paths[0])) if len(paths) == 1 else f"{len(paths)} files"
    say(f"{shown}: {known.title}.\n")
    if resolved.problems:
        raise DataError(resolved.problems)
    if not resolved.frames:
        raise DataError([_nothing(paths[0])])
    for path in resolved.unlabelled:
        require_own_file(path, files.pictures.root)
    for note in [*resolved.notes, _summary(resolved.frames)]:
        say(f"{note}\n")
    _write_frames(resolved, staged)


def _nothing(path: Path) -> DataProblem:
    text = "no frame is left. Add annotated pictures, or correct --empty and --category."
    return DataProblem("nothing", str(path), text)


def _summary(frames: Sequence[LabelledPicture]) -> str:
    counts = [frame.count for frame in frames]
    unmarked = sum(frame.points is None for frame in frames)
    points = "Their points go into points.csv."
    if unmarked:
        points = f"There is no points.csv, because people are not marked in {unmarked} of them."
    return (
        f"Pictures: {len(frames)}, of which show nobody: {counts.count(0)}. People: "
        f"{sum(counts):,}, from {min(counts)} to {max(counts)} a picture. {points}"
    )


def _write_frames(resolved: Resolved, staged: Path) -> None:
    """Copies the pictures and writes the tables. Names are paths below the common folder."""
    frames = resolved.frames
    pictures = [*(frame.path for frame in frames), *resolved.unlabelled]
    top = Path(os.path.commonpath([path.parent for path in pictures]))
    for path in pictures:
        target = staged / "frames" / path.relative_to(top)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    _write_tables(frames, top, staged)


def _write_tables(frames: Sequence[LabelledPicture], top: Path, staged: Path) -> None:
    """Writes labels.csv; and points.csv, if the people of all frames are marked."""
    cameras = any(frame.camera for frame in frames)
    with (
        (staged / "labels.csv").open("w", encoding="utf-8", newline="") as labels_file,
        (staged / POINTS).open("w", encoding="utf-8", newline="") as points_file,
    ):
        labels = csv.writer(labels_file, lineterminator="\n")
        points = csv.writer(points_file, lineterminator="\n")
        labels.writerow(["frame", "count", *(["camera"] if cameras else [])])
        points.writerow(["frame", "x", "y"])
        for frame in frames:
            name = frame.path.relative_to(top).as_posix()
            labels.writerow([name, frame.count, *([frame.camera] if cameras else [])])
            points.writerows([name, *_rounded(point)] for point in frame.points or ())
    if any(frame.points is None for frame in frames):
        (staged / POINTS).unlink()


def _rounded(point: tuple[float, float]) -> list[str]:
    """Hundredths of pixels: some formats round more than that."""
    return [f"{round(value, 2):g}" for value in point]
