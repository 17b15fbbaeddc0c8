"""`llava-dvc label --from URL`: what was annotated in Label Studio becomes labels in `data/`."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava_dvc.data.data_errors import DataError, DataProblem, few_names, printable_name
from llava_dvc.data.imports.annotations import ImportChoices
from llava_dvc.data.imports.formats.label_studio import ZONE_FIELD, read_label_studio
from llava_dvc.data.imports.import_files import ImportFiles, PictureIndex
from llava_dvc.data.imports.import_folder import import_folder
from llava_dvc.data.imports.mall import default_messages, with_user_paths
from llava_dvc.data.imports.resolve import LabelledPicture, resolve_reading
from llava_dvc.data.labels import RECORD, RECORD_COLUMNS, natural_key, read_record
from llava_dvc.data.points import POINTS, Points, PointTable
from llava_dvc.data.table import write_table
from llava_dvc.data.zones import ZONES
from llava_dvc.errors import UserError
from llava_dvc.files import write_json
from llava_dvc.labelling.bring_zones import bring_zones
from llava_dvc.labelling.label_pool import LabelPool
from llava_dvc.labelling.merge_answers import Brought, Merged, StudioAnswer, merge_answers
from llava_dvc.labelling.studio_server import StudioProject, StudioServer
from llava_dvc.labelling.studio_tasks import asks_for_heads

Task = dict[str, Any]
Say = Callable[[str], object]


@dataclass(frozen=True)
class StudioSource:
    server: StudioServer
    project: StudioProject

    def place(self, task: Task) -> str:
        return f"{self.server.url}/projects/{self.project.id}/tasks/{task['id']}"


def bring_answers(pool: LabelPool, source: StudioSource, say: Say) -> bool:
    """Writes the answers of a project to the labels; returns whether anything changed.

    Nothing is written before all answers are checked. Raises UserError with all problems.
    """
    with import_folder(pool.data) as folder:
        tasks = _own_tasks(pool, source.server.export(source.project), say)
        zones = bring_zones(pool, tasks, say)
        pictures = _read_answers(pool, source, tasks, folder, say)
        answers = [_answer(source, task, pictures.get(task["data"]["frame"])) for task in tasks]
        record = _record_of(pool.data / RECORD)
        labels = {name: label.count for name, label in pool.labels.items()}
        merged = merge_answers(labels, record, answers)
        cameras = _cameras_of(pool, merged, pictures)
        points = _points_of(pool, merged, pictures)
        _tell(merged, say)
        if zones is not None:
            write_json(pool.data / ZONES, zones)
        if (merged.labels, merged.record, points) == (labels, record, _old_points(pool)):
            return zones is not None
        _write(pool.data, merged, cameras, points)
    return True


# --- answers ------------------------------------------------------------------------------------


def _own_tasks(pool: LabelPool, tasks: Sequence[Task], say: Say) -> list[Task]:
    """The tasks that `label --to` made, or an import of `--file`; raises DataError."""
    own = [task for task in tasks if isinstance(task["data"].get("frame"), str)]
    if others := len(tasks) - len(own):
        say(f"Tasks that llava-dvc did not make are left out: {others}.\n")
    known, problems = set(pool.names), []
    for task in own:
        name = task["data"]["frame"]
        if name not in known and task["annotations"]:
            text = (
                f"frame {printable_name(name)} is not in {pool.data / 'frames'}, or is excluded. "
                "Put it there, or delete the task."
            )
            problems.append(DataProblem("missing", f"task {task['id']}", text))
    if problems:
        raise DataError(problems)
    return [task for task in own if task["data"]["frame"] in known]


def _read_answers(
    pool: LabelPool, source: StudioSource, tasks: Sequence[Task], folder: Path, say: Say
) -> dict[str, LabelledPicture]:
    """What the importer of Label Studio makes of the tasks that have annotations, by frame."""
    export = folder / "export.json"
    counted = _without_zones(tasks, say)
    answered = [task for task in counted if any(map(_is_answer, task["annotations"]))]
    if skipped := sum(bool(task["annotations"]) for task in counted) - len(answered):
        say(f"Tasks that their annotators skipped: {skipped}.\n")
    if not answered:
        return {}
    export.write_text(json.dumps(answered), encoding="utf-8")
    frames = pool.data / "frames"
    index = PictureIndex(frames, [pool.path(task["data"]["frame"]) for task in answered])
    # Where heads are marked, an empty answer says that nobody is there.
    choices = ImportChoices(empty="zero" if asks_for_heads(source.project.config) else "skip")
    reading = read_label_studio(ImportFiles(folder, [export], index), [export], choices)
    resolved = resolve_reading(reading, index, choices)
    if resolved.problems:
        raise with_user_paths(DataError(resolved.problems), {export: Path(source.server.url)})
    for note in resolved.notes:
        say(f"{note}\n")
    return {found.path.relative_to(frames).as_posix(): found for found in resolved.frames}


def _without_zones(tasks: Sequence[Task], say: Say) -> list[Task]:
    """`bring_zones` has taken the zones. An answer that is only a zone does not say how many."""
    rest, drawn = [], []
    for task in tasks:
        kept = [
            one | {"result": _parts_of_count(one)}
            for one in task["annotations"]
            if not _is_only_zone(one)
        ]
        rest.append(task | {"annotations": kept})
        if task["annotations"] and not kept:
            drawn.append(task["data"]["frame"])
    if drawn:
        say(
            f"Only a zone is drawn on {few_names(drawn)}, which gives no label. To give one, mark "
            "the heads there or type the number, 0 for nobody.\n"
        )
    return rest


def _is_only_zone(annotation: Mapping[str, Any]) -> bool:
    has_parts = bool(annotation["result"])
    return has_parts and _is_answer(annotation) and not _parts_of_count(annotation)


def _parts_of_count(annotation: Mapping[str, Any]) -> list[Any]:
    return [part for part in annotation["result"] if part.get("from_name") != ZONE_FIELD]


def _is_answer(annotation: Mapping[str, Any]) -> bool:
    return not annotation.get("was_cancelled")


def _answer(source: StudioSource, task: Task, found: LabelledPicture | None) -> StudioAnswer:
    data = task["data"]
    return StudioAnswer(
        frame=data["frame"],
        task=source.place(task),
        time=max((entry["updated_at"] for entry in task["annotations"]), default=""),
        count=found.count if found else None,
        sent=data.get("label"),
    )


# --- cameras and points -------------------------------------------------------------------------


def _cameras_of(
    pool: LabelPool, merged: Merged, pictures: Mapping[str, LabelledPicture]
) -> dict[str, str]:
    """The camera of each labelled frame; empty if there are none. Raises UserError."""
    cameras = {
        name: pool.camera(name) or (pictures[name].camera if name in pictures else None)
        for name in merged.labels
    }
    lacking = [name for name, camera in cameras.items() if not camera]
    if len(lacking) == len(cameras):
        return {}
    if lacking:
        raise UserError(
            f"{pool.data / 'labels.csv'}: frames have cameras, but that of "
            f"{printable_name(lacking[0])} is unknown ({len(lacking)} such frames). Add its line "
            "there by hand, or keep the frames of each camera in a folder of its own."
        )
    return {name: str(camera) for name, camera in cameras.items()}


def _points_of(
    pool: LabelPool, merged: Merged, pictures: Mapping[str, LabelledPicture]
) -> dict[str, Points] | None:
    """The points of each labelled frame. None if those of some are unknown and there were none.

    Raises UserError if `data` has a points.csv and some answer has no points.
    """
    old, taken = _old_points(pool), set(merged.taken)
    points: dict[str, Points] = {}
    lacking = []
    for name in merged.labels:
        found = pictures[name].points if name in taken else None
        if found is None and (old is None or name in {*merged.new, *merged.changed}):
            lacking.append(name)
        elif found is not None:
            points[name] = [(round(x, 2), round(y, 2)) for x, y in found]
        else:
            points[name] = (old or {})[name]
    if lacking and old is not None:
        raise UserError(
            f"{pool.data / POINTS}: has the people of all frames, but those of "
            f"{few_names(lacking)} are only counted. Mark them, with `label --points`, or delete "
            "this file."
        )
    return None if lacking or (old is None and not any(points.values())) else points


def _old_points(pool: LabelPool) -> dict[str, Points] | None:
    path = pool.data / POINTS
    if not path.exists():
        return None
    table = PointTable(path, ())
    return {name: table.points_of(name) for name in pool.labels}


# --- files --------------------------------------------------------------------------------------


def _record_of(path: Path) -> dict[str, Brought]:
    rows = read_record(path) if path.exists() else []
    return {frame: Brought(int(count), time, task) for frame, count, time, task in rows}


def _write(
    data: Path, merged: Merged, cameras: Mapping[str, str], points: Mapping[str, Points] | None
) -> None:
    """Writes the tables, the record last: if this is interrupted, the next run does it again."""
    names = sorted(merged.labels, key=natural_key)
    if points is not None:
        rows = ([name, x, y] for name in names for x, y in points[name])
        write_table(data / POINTS, ["frame", "x", "y"], rows)
    columns = ["frame", "count", *(["camera"] if cameras else [])]
    camera = {name: [cameras[name]] if cameras else [] for name in names}
    rows = ([name, merged.labels[name], *camera[name]] for name in names)
    write_table(data / "labels.csv", columns, rows)
    if not (data / "messages.txt").exists():
        (data / "messages.txt").write_text(default_messages(), encoding="utf-8")
    record = sorted(merged.record.items())
    rows = ([name, b.count, b.time, b.task] for name, b in record)
    write_table(data / RECORD, RECORD_COLUMNS, rows)


# --- words --------------------------------------------------------------------------------------


def _tell(merged: Merged, say: Say) -> None:
    new, changed, removed = len(merged.new), len(merged.changed), len(merged.removed)
    say(f"Labels: {new} new, {changed} changed, {removed} removed; {len(merged.labels)} in all.\n")
    if merged.kept:
        say(
            f"Labels that were changed by hand, and stay: {few_names(merged.kept)}. To take Label "
            "Studio's answer, delete the line in labels.csv and run this again.\n"
        )
