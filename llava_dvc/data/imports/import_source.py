"""`llava-dvc import SOURCE`: frames with annotations of any known format become `data/`."""

import csv
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from llava_dvc.data.data_errors import DataError, DataProblem, printable_name
from llava_dvc.data.folders import require_own_file
from llava_dvc.data.frames import read_frames
from llava_dvc.data.imports.annotations import ImportChoices
from llava_dvc.data.imports.formats.known import FORMATS, OWN, recognise_format
from llava_dvc.data.imports.import_files import ImportFiles, list_import_files
from llava_dvc.data.imports.import_folder import import_folder, replace_data
from llava_dvc.data.imports.mall import (
    import_mall,
    require_replaceable,
    stage_messages,
    with_user_paths,
)
from llava_dvc.data.imports.resolve import LabelledPicture, resolve_reading
from llava_dvc.data.imports.zip_archive import unpack_zip
from llava_dvc.data.points import POINTS
from llava_dvc.errors import UserError

_UNPACKED = {".json", ".xml", ".csv", ".txt", ".yaml", ".yml", ".names", ".mat"}


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


def import_source(plan: ImportPlan, data: Path, say: Callable[[str], object]) -> int:
    """Replaces the frames and labels in `data` by those in the source; returns their number.

    `say` gets lines that tell what was found. `data` is replaced in one step after all checks.
    Raises UserError, with all problems at once. Call `dvc_add` next.
    """
    if plan.format == OWN:
        return import_mall(plan.source, data)
    with import_folder(data) as folder:
        require_replaceable(data)
        unpacked, staged = folder / "unpacked", folder / "staged"

        def tell(text: str) -> None:
            say(text.replace(str(unpacked), str(plan.source)))

        try:
            files = _list_source(plan, unpacked, data)
            if (name := plan.format or recognise_format(files)) != OWN:
                _stage_annotated(files, replace(plan, format=name), staged, tell)
                stage_messages(files.messages_root or staged, data, staged)
                count = len(read_frames(staged, exclude=()))
                replace_data(data, staged, folder)
                return count
        except UserError as error:
            raise with_user_paths(error, {unpacked: plan.source, staged: plan.source}) from None
    is_table = plan.source.suffix.lower() != ".zip" and plan.source.is_file()
    say(f"{plan.source}: frames with a labels.csv of our own form, or Mall.\n")
    return import_mall(plan.source.parent if is_table else plan.source, data)


def _list_source(plan: ImportPlan, unpacked: Path, data: Path) -> ImportFiles:
    source = plan.source
    if not source.exists():
        raise UserError(f"{source}: no such file or folder. Check the path.")
    if source.is_dir():
        return list_import_files(source, None, plan.frames, data)
    if source.suffix.lower() == ".zip":
        return list_import_files(unpack_zip(source, unpacked, _UNPACKED), None, plan.frames, data)
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
    for note in [*resolved.notes, _summary(resolved.frames)]:
        say(f"{note}\n")
    _write_frames(resolved.frames, staged)


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


def _write_frames(frames: Sequence[LabelledPicture], staged: Path) -> None:
    """Copies the pictures and writes the tables. Names are paths below the common folder."""
    top = Path(os.path.commonpath([frame.path.parent for frame in frames]))
    cameras = any(frame.camera for frame in frames)
    (staged / "frames").mkdir(parents=True)
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
            target = staged / "frames" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(frame.path, target)
            labels.writerow([name, frame.count, *([frame.camera] if cameras else [])])
            points.writerows([name, *_rounded(point)] for point in frame.points or ())
    if any(frame.points is None for frame in frames):
        (staged / POINTS).unlink()


def _rounded(point: tuple[float, float]) -> list[str]:
    """Hundredths of pixels: some formats round more than that."""
    return [f"{round(value, 2):g}" for value in point]
