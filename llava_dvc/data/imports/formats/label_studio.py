"""Label Studio: its JSON and JSON-MIN exports, with numbers, choices, points and boxes.

https://labelstud.io/guide/export
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from llava_dvc.data.data_errors import quoted
from llava_dvc.data.images import Size, is_picture_name
from llava_dvc.data.imports.annotations import (
    PERSON,
    AnnotationError,
    Answer,
    ImportChoices,
    Mark,
    Reading,
    Record,
    box_mark,
    count_from,
    number_from,
    point_mark,
    spanning_mark,
    turned_mark,
)
from llava_dvc.data.imports.import_files import ImportFiles, require_kind

_MIN_KEYS = {"annotation_id", "annotator", "lead_time"}
"""JSON-MIN has these in every entry."""

ZONE_FIELD = "zone"
"""The field in which annotators draw a zone for `llava-dvc label`: an area, and no person."""

_LABELS = ("rectanglelabels", "keypointlabels", "ellipselabels", "polygonlabels", "labels")


def find_label_studio(files: ImportFiles) -> list[Path]:
    return [path for path in files.with_suffix(".json") if _is_export(files, path)]


def _is_export(files: ImportFiles, path: Path) -> bool:
    try:
        value = files.json(path)
    except AnnotationError:
        return False
    if not isinstance(value, list) or not value or not all(isinstance(x, dict) for x in value):
        return False
    return _is_full(value[0]) or value[0].keys() >= _MIN_KEYS


def _is_full(task: Mapping[str, Any]) -> bool:
    return "data" in task and ("annotations" in task or "completions" in task)


def read_label_studio(files: ImportFiles, paths: Sequence[Path], choices: ImportChoices) -> Reading:
    """One record for each task, with an answer for each annotator.

    Cancelled annotations do not count. A task with no others was skipped, and is left out.
    """
    reading = Reading()
    skipped = zones = 0
    for path in paths:
        try:
            tasks = _tasks_in(require_kind(files.json(path), list, "the file"))
        except AnnotationError as error:
            reading.add_problem(path, error)
            continue
        for key, task in tasks:
            place = f"{path}: task {key}"
            try:
                reader = _Task(place, task)
                zones += reader.zones
                if (record := reader.record()) is None:
                    skipped += 1
                else:
                    reading.records.append(record)
            except AnnotationError as error:
                reading.add_problem(place, error)
    if zones:
        reading.notes.append(f"Zones are left out: {zones}. `llava-dvc label --from` brings them.")
    if skipped:
        reading.notes.append(f"Tasks that their annotators skipped are left out: {skipped}.")
    reading.records = _with_empty_answers(reading.records)
    return reading


def _with_empty_answers(records: Sequence[Record]) -> list[Record]:
    """An answer without marks means nobody, but not where a number has to be typed."""
    if any(answer.numbers for record in records for answer in record.answers):
        return list(records)
    return [
        replace(record, answers=[replace(answer, sure=True) for answer in record.answers])
        for record in records
    ]


# --- both forms as one --------------------------------------------------------------------------


def _tasks_in(entries: Sequence[Any]) -> list[tuple[Any, dict[str, Any]]]:
    """Tasks with their ids, in the form of the full export; raises AnnotationError."""
    tasks: dict[Any, dict[str, Any]] = {}
    for number, entry in enumerate(entries, start=1):
        require_kind(entry, dict, f"entry {number}")
        key = entry.get("id", f"number {number}")
        if _is_full(entry):
            if key in tasks:
                raise AnnotationError(f"task {key} is there twice. Export it again.")
            tasks[key] = entry
        elif entry.keys() >= _MIN_KEYS:
            data = {k: v for k, v in entry.items() if k not in _names_of_results(entry)}
            task = tasks.setdefault(key, {"data": data, "annotations": []})
            if entry["annotation_id"] is not None:
                task["annotations"].append({"result": list(_results_of(entry))})
        else:
            raise AnnotationError(
                f"entry {number} is no task of Label Studio. Export as JSON or JSON-MIN."
            )
    return list(tasks.items())


def _results_of(entry: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The results in an entry of JSON-MIN, as the full export has them."""
    for name in _names_of_results(entry):
        value = entry[name]
        if isinstance(value, str):
            yield {"from_name": name, "value": {"choices": [value]}}
        for part in value if isinstance(value, list) else ():
            if isinstance(part, dict):
                sizes = {key: part.get(key) for key in ("original_width", "original_height")}
                yield {"from_name": name, "value": part, **sizes}


def _names_of_results(entry: Mapping[str, Any]) -> list[str]:
    """The keys between `id` and `annotator`. Before them are the task's data."""
    keys = list(entry)
    start = keys.index("id") + 1 if "id" in entry else 0
    return keys[start : keys.index("annotator")]


# --- one task -----------------------------------------------------------------------------------


class _Task:
    """One task while it is read. Errors are AnnotationErrors."""

    def __init__(self, place: str, task: Mapping[str, Any]) -> None:
        self.place = place
        self.data = require_kind(task.get("data"), dict, "data")
        found = task["annotations"] if "annotations" in task else task["completions"]
        self.annotations = [
            require_kind(entry, dict, "an annotation")
            for entry in require_kind(found, list, "annotations")
        ]
        self.sizes: set[Size] = set()
        self.zones = sum(len(list(zone_results(entry))) for entry in self.annotations)

    def record(self) -> Record | None:
        """None for a task that was skipped."""
        done = [
            entry
            for entry in self.annotations
            if not entry.get("was_cancelled") and not entry.get("skipped")
        ]
        if self.annotations and not done:
            return None
        done = [entry for entry in done if entry.get("ground_truth")] or done
        answers = [self._answer(entry) for entry in done]
        camera = self.data.get("camera")
        if len(self.sizes) > 1:
            raise AnnotationError("its annotations are for pictures of several sizes. Correct it.")
        return Record(
            self.place,
            _picture_in(self.data),
            answers,
            size=next(iter(self.sizes), None),
            camera=camera if isinstance(camera, str) and camera.strip() else None,
            relative=True,
        )

    def _answer(self, annotation: Mapping[str, Any]) -> Answer:
        marks: list[Mark] = []
        numbers: dict[str, int] = {}
        for result in require_kind(annotation.get("result") or [], list, "result"):
            value = require_kind(require_kind(result, dict, "a result").get("value"), dict, "value")
            name = str(result.get("from_name", ""))
            if name == ZONE_FIELD:
                continue
            number = _number_in(value, name)
            if number is not None:
                if numbers.setdefault(name, number) != number:
                    raise AnnotationError(f"{name} has two numbers. Correct it.")
            elif (mark := _mark_from(value)) is not None:
                size = _size_from(result)
                marks.append(_turned_share(mark, value, size))
                self.sizes |= {size} if size else set()
        return Answer(marks, numbers)


def zone_results(annotation: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The zones that an annotator has drawn."""
    for result in annotation.get("result") or ():
        if isinstance(result, dict) and result.get("from_name") == ZONE_FIELD:
            yield result


def _size_from(result: Mapping[str, Any]) -> Size | None:
    width, height = result.get("original_width"), result.get("original_height")
    if width is None or height is None:
        return None
    return count_from(width, "original_width"), count_from(height, "original_height")


def _turned_share(mark: Mark, value: Mapping[str, Any], size: Size | None) -> Mark:
    """The upright box around a box that was turned about its upper left corner, or an ellipse that
    was turned about its middle. Turning needs pixels: shares are not square.
    """
    degrees = number_from(value.get("rotation") or 0, "rotation")
    if not degrees or mark.left == mark.right:
        return mark
    if not size or not all(size):
        raise AnnotationError("a box is turned, but original_width is missing. Export it again.")
    width, height = size
    middle = (mark.left + mark.right) / 2, (mark.top + mark.bottom) / 2
    x, y = middle if "radiusX" in value else (mark.left, mark.top)
    turned = turned_mark(mark.scaled(width, height), degrees, (x * width, y * height))
    return turned.scaled(1 / width, 1 / height)


def _number_in(value: Mapping[str, Any], name: str) -> int | None:
    """A typed number, or the number that was chosen; None for anything else."""
    if "number" in value:
        return count_from(value["number"], name)
    if "choices" not in value:
        return None
    choices = require_kind(value["choices"], list, name)
    if not any(char.isdecimal() for choice in choices for char in str(choice)):
        return None  # the weather, or a comment
    if len(choices) != 1:
        raise AnnotationError(f"{name} has {len(choices)} choices, expected one. Correct it.")
    return count_from(choices[0], name)


def _mark_from(value: Mapping[str, Any]) -> Mark | None:
    """A point or a box, in shares of the picture; None for anything else, such as text."""
    labels = next((value[key] for key in _LABELS if value.get(key)), [PERSON])
    if not isinstance(labels, list) or len(labels) != 1 or not isinstance(labels[0], str):
        raise AnnotationError(f"a mark has the labels {quoted(str(labels))}, expected one.")
    label = labels[0]
    if "points" in value:
        outline = require_kind(value["points"], list, "points")
        return spanning_mark(label, [_share_pair(point) for point in outline])
    if "x" not in value or "y" not in value:
        return None
    x, y = _share_pair([value["x"], value["y"]])
    if "radiusX" in value:
        across, down = _share_pair([value["radiusX"], value.get("radiusY")])
        return box_mark(label, x - across, y - down, x + across, y + down)
    if "height" not in value:  # a point; its `width` is that of the dot on the screen
        return point_mark(label, x, y)
    width, height = _share_pair([value.get("width"), value["height"]])
    return box_mark(label, x, y, x + width, y + height)


def _share_pair(pair: Any) -> tuple[float, float]:
    """Percent as shares."""
    if not isinstance(pair, list) or len(pair) != 2:
        raise AnnotationError(f"a point is {quoted(str(pair))}, expected x and y. Correct it.")
    x, y = (number_from(value, "a position") / 100 for value in pair)
    return x, y


def _picture_in(data: Mapping[str, Any]) -> str:
    """The path of the task's only picture, without server and bucket.

    A path in `frame` goes before: `llava-dvc label` writes it there.
    """
    frame = data.get("frame")
    if isinstance(frame, str) and is_picture_name(frame):
        return frame
    found = [_path_of(value) for value in data.values() if isinstance(value, str)]
    pictures = [path for path in found if is_picture_name(path)]
    if len(pictures) != 1:
        raise AnnotationError(
            f"its data names {len(pictures)} pictures, expected one. Keep one in the task."
        )
    return pictures[0]


def _path_of(value: str) -> str:
    """The path in an address such as /data/local-files/?d=cam1/a.jpg or s3://bucket/cam1/a.jpg."""
    try:
        parts = urlsplit(value)
        if local := parse_qs(parts.query).get("d"):
            return local[0]
        return unquote(parts.path) if parts.scheme or parts.path.startswith("/data/") else value
    except ValueError:
        return value
