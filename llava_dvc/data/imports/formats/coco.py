"""COCO JSON: boxes, and keypoints of heads or bodies.

https://cocodataset.org/#format-data
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from llava_dvc.data.data_errors import quoted
from llava_dvc.data.images import Size
from llava_dvc.data.imports.annotations import (
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
    text_from,
)
from llava_dvc.data.imports.import_files import ImportFiles, require_kind

_PARTS = ("images", "annotations", "categories")
_HEAD = {"nose", "eye", "ear", "head"}


def find_coco(files: ImportFiles) -> list[Path]:
    """The COCO files. Of a data set in COCO's own folders only `instances_*.json`."""
    found = [path for path in files.with_suffix(".json") if _is_coco(files, path)]
    return [path for path in found if path.name.startswith("instances_")] or found


def _is_coco(files: ImportFiles, path: Path) -> bool:
    try:
        value = files.json(path)
    except AnnotationError:
        return False
    return isinstance(value, dict) and all(isinstance(value.get(part), list) for part in _PARTS)


def read_coco(files: ImportFiles, paths: Sequence[Path], choices: ImportChoices) -> Reading:
    """One record for each entry of `images`."""
    reading = Reading()
    for path in paths:
        try:
            _CocoFile(path, files.json(path), reading).read()
        except AnnotationError as error:
            reading.add_problem(path, error)
    return reading


class _CocoFile:
    """One file while it is read."""

    def __init__(self, path: Path, value: Any, reading: Reading) -> None:
        """Raises AnnotationError if a part of the file is missing."""
        value = require_kind(value, dict, "the file")
        self.path, self.reading = path, reading
        self.parts = [require_kind(value.get(part), list, f"`{part}`") for part in _PARTS]
        self.images: dict[Any, Record] = {}
        self.marks: dict[Any, list[Mark]] = {}
        self.categories: dict[Any, tuple[str, list[Any]]] = {}

    def read(self) -> None:
        """Adds the records. Annotations are read only if all that they refer to is valid."""
        images, annotations, categories = self.parts
        for part, entries, add in (
            ("categories", categories, self._add_category),
            ("images", images, self._add_image),
            ("annotations", annotations, self._add_annotation),
        ):
            if self.reading.problems:
                return
            for number, entry in enumerate(entries):
                try:
                    add(require_kind(entry, dict, "the entry"))
                except AnnotationError as error:
                    self.reading.add_problem(f"{self.path}: {part}[{number}]", error)
        for key, record in self.images.items():
            answers = [Answer(self.marks[key])] if key in self.marks else []
            self.reading.records.append(replace(record, answers=answers))

    def _add_category(self, entry: Mapping[str, Any]) -> None:
        name = text_from(entry.get("name"), "name")
        key = _id_in(entry, "id")
        if key in self.categories:
            raise AnnotationError(f"id is {key} as of another category. Give each its own.")
        self.categories[key] = (name, list(entry.get("keypoints") or []))
        self.reading.categories.append(name)

    def _add_image(self, entry: Mapping[str, Any]) -> None:
        key = _id_in(entry, "id")
        if key in self.images:
            raise AnnotationError(f"id is {key} as of another image. Give each its own.")
        name = text_from(entry.get("file_name"), "file_name")
        self.images[key] = Record(str(self.path), name, size=_size_of(entry))

    def _add_annotation(self, entry: Mapping[str, Any]) -> None:
        image, category = _id_in(entry, "image_id"), _id_in(entry, "category_id")
        if image not in self.images:
            raise AnnotationError(f"image_id is {image}, which is not in `images`. Correct it.")
        if category not in self.categories:
            raise AnnotationError(
                f"category_id is {category}, which is not in `categories`. Correct it."
            )
        name, keypoints = self.categories[category]
        self.marks.setdefault(image, []).append(_mark_of(entry, name, keypoints))


def _id_in(entry: Mapping[str, Any], name: str) -> Any:
    value = entry.get(name)
    if isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    raise AnnotationError(f"{name} is {quoted(str(value))}, expected a number. Correct it.")


def _size_of(entry: Mapping[str, Any]) -> Size | None:
    if entry.get("width") is None or entry.get("height") is None:
        return None
    return count_from(entry["width"], "width"), count_from(entry["height"], "height")


def _mark_of(entry: Mapping[str, Any], category: str, names: Sequence[Any]) -> Mark:
    """The head, if keypoints of it are visible, else the box; raises AnnotationError."""
    if entry.get("iscrowd", 0) not in (0, 1, False, True):
        raise AnnotationError(f"iscrowd is {quoted(str(entry['iscrowd']))}, expected 0 or 1.")
    if entry.get("iscrowd"):
        return Mark(category, 0, 0, 0, 0, crowd=True)
    head = _head_of(entry.get("keypoints"), names)
    if head:
        return point_mark(category, *head)
    box = require_kind(entry.get("bbox"), list, "bbox")
    if len(box) != 4:
        raise AnnotationError(f"bbox has {len(box)} numbers, expected 4 (x, y, width, height).")
    x, y, width, height = (number_from(value, "bbox") for value in box)
    return box_mark(category, x, y, x + width, y + height)


def _head_of(keypoints: Any, names: Sequence[Any]) -> tuple[float, float] | None:
    """The middle of the labelled points of a head. The only point of a category is the head."""
    if not keypoints:
        return None
    values = [number_from(v, "keypoints") for v in require_kind(keypoints, list, "keypoints")]
    if len(values) % 3 or (names and len(values) != 3 * len(names)):
        raise AnnotationError(
            f"keypoints has {len(values)} numbers, expected 3 for each of the {len(names)} "
            "keypoints of the category. Correct it."
        )
    points = list(zip(values[::3], values[1::3], values[2::3], strict=True))
    of_head = [
        (x, y)
        for i, (x, y, visible) in enumerate(points)
        if visible > 0 and (len(points) == 1 or _is_of_head(names, i))
    ]
    if not of_head:
        return None
    return sum(x for x, _ in of_head) / len(of_head), sum(y for _, y in of_head) / len(of_head)


def _is_of_head(names: Sequence[Any], index: int) -> bool:
    """Whether a keypoint such as `left_eye` or `head` is on the head; `forearm` is not."""
    words = re.split("[^a-z]+", str(names[index]).lower()) if index < len(names) else []
    return any(word in _HEAD for word in words)
