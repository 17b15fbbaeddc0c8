"""YOLO: a .txt file a picture, one line an object, in shares of the picture's width and height.

https://docs.ultralytics.com/datasets/detect/ and, with obj.names, the older form of Darknet.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from llava_dvc.data.data_errors import quoted
from llava_dvc.data.imports.annotations import (
    AnnotationError,
    Answer,
    ImportChoices,
    Mark,
    Reading,
    Record,
    box_mark,
    number_from,
    spanning_mark,
    text_from,
)
from llava_dvc.data.imports.import_files import ImportFiles, read_small_text

_NAME_FILES = ("obj.names", "classes.txt")
_BEYOND = 0.1
"""The middle of a box at the edge may be beyond 0 or 1 by this. Pixels are far beyond."""


def find_yolo(files: ImportFiles) -> list[Path]:
    """The files that name the classes: data.yaml, obj.names or classes.txt."""
    named = [path for path in files.files if path.name in _NAME_FILES]
    return named or [path for path in files.with_suffix(".yaml", ".yml") if _has_names(path)]


def _has_names(path: Path) -> bool:
    try:
        return "names" in _read_yaml(path)
    except AnnotationError:
        return False


class _PlainLoader(yaml.SafeLoader):
    """Refuses aliases: with them a short file can stand for a huge one."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise AnnotationError("has an alias (*), which is not needed there. Write it out.")
        return super().compose_node(parent, index)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        value = _PlainLoader(read_small_text(path)).get_single_data()
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        if isinstance(error, AnnotationError):
            raise
        reason = " ".join(str(error).split())
        raise AnnotationError(f"is not valid YAML ({reason}). Correct it.") from None
    if not isinstance(value, dict):
        raise AnnotationError("is not YAML with `names`. Write the class names there.")
    return value


def read_yolo(files: ImportFiles, paths: Sequence[Path], choices: ImportChoices) -> Reading:
    """One record for each picture. A picture with an empty file, or without, has no annotation.

    Label Studio and CVAT write an empty file for a picture that nobody labelled.
    """
    reading = Reading()
    try:
        if len(paths) != 1:
            raise AnnotationError(f"also {paths[1]} names classes. Keep one of them.")
        names, keypoints = _classes_in(paths[0])
    except AnnotationError as error:
        reading.add_problem(paths[0], error)
        return reading
    reading.categories = list(names.values())
    tables = _pair_tables(files, paths[0], reading)
    for picture in files.pictures.paths:
        table = tables.get(picture)
        answers = [Answer(_read_lines(table, names, keypoints, reading))] if table else []
        reading.records.append(Record(str(table or picture), str(picture), answers, relative=True))
    return reading


def _pair_tables(files: ImportFiles, names: Path, reading: Reading) -> dict[Path, Path]:
    """The label file of each picture that has one; adds a problem for each that has no picture."""
    tables = {_label_key(path): path for path in files.with_suffix(".txt") if path != names}
    pairs: dict[Path, Path] = {}
    for picture in files.pictures.paths:
        for key in _label_places(picture):
            if picture not in pairs and key in tables:
                pairs[picture] = tables.pop(key)
    for path in tables.values():
        if "labels" in path.parts or path.parent.name.startswith("obj_"):
            try:
                twin = pairs.setdefault(files.pictures.find(str(path.with_suffix(""))), path)
                if twin is not path:
                    raise AnnotationError(f"{twin} is for the same picture. Delete one.")
            except AnnotationError as error:
                reading.add_problem(path, error, "missing")
    return pairs


def _label_key(path: Path) -> tuple[str, ...]:
    return (*path.parent.parts, path.stem)


def _label_places(picture: Path) -> list[tuple[str, ...]]:
    """Where the labels of a picture may be: in `labels` instead of the last `images`, or beside."""
    key = _label_key(picture)
    folders = [i for i, part in enumerate(key[:-1]) if part == "images"]
    in_labels = [(*key[:i], "labels", *key[i + 1 :]) for i in folders[-1:]]
    return [*in_labels, key]


def _classes_in(path: Path) -> tuple[dict[int, str], int | None]:
    """Class names by id, and how many numbers a line has if it has keypoints."""
    if path.name in _NAME_FILES:
        lines = read_small_text(path).rstrip().splitlines()
        return {i: text_from(line.strip(), f"line {i + 1}") for i, line in enumerate(lines)}, None
    value = _read_yaml(path)
    names = value.get("names")
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not names:
        raise AnnotationError(f"names is {quoted(str(names))}, expected names of classes.")
    if value.get("nc") not in (None, len(names)):
        raise AnnotationError(f"nc is {value['nc']}, but there are {len(names)} names. Correct it.")
    for key, name in names.items():
        if not isinstance(key, int) or not isinstance(name, str):
            raise AnnotationError(f"names has {key!r}: {name!r}, expected a number and a name.")
    return names, _keypoint_numbers(value.get("kpt_shape"))


def _keypoint_numbers(shape: Any) -> int | None:
    if shape is None:
        return None
    if isinstance(shape, list) and len(shape) == 2 and all(isinstance(n, int) for n in shape):
        return int(shape[0] * shape[1])
    raise AnnotationError(f"kpt_shape is {quoted(str(shape))}, expected two numbers. Correct it.")


def _read_lines(
    path: Path, names: Mapping[int, str], keypoints: int | None, reading: Reading
) -> list[Mark]:
    """The marks in one label file; adds the problem of each invalid line."""
    marks = []
    try:
        lines = read_small_text(path).splitlines()
    except AnnotationError as error:
        reading.add_problem(path, error)
        return []
    for number, line in enumerate(lines, start=1):
        try:
            if line.strip():
                marks.append(_parse_object(line, names, keypoints))
        except AnnotationError as error:
            reading.add_problem(f"{path}:{number}", error)
    return marks


def _parse_object(line: str, names: Mapping[int, str], keypoints: int | None) -> Mark:
    """A box, or the box around an outline; raises AnnotationError."""
    first, *rest = line.split()
    if not first.isdecimal() or int(first) not in names:
        raise AnnotationError(
            f"the class is {quoted(first)}, expected a number of the {len(names)} classes. Correct "
            "it, or add its name."
        )
    values = [number_from(value, "a value") for value in rest]
    is_box = len(values) == 4 or (keypoints is not None and len(values) == 4 + keypoints)
    is_outline = keypoints is None and len(values) >= 6 and len(values) % 2 == 0
    if not is_box and not is_outline:
        hint = " A fifth one is the confidence of a model's answer." if len(values) == 5 else ""
        raise AnnotationError(
            f"{len(values)} numbers follow the class, expected 4 (x, y, width, height) or an "
            f"outline.{hint} Correct the line."
        )
    within = values[:4] if is_box else values
    if wrong := [value for value in within if not -_BEYOND <= value <= 1 + _BEYOND]:
        raise AnnotationError(
            f"{wrong[0]:g} is not between 0 and 1. Divide pixels by the picture's width or height."
        )
    if is_outline:
        return spanning_mark(names[int(first)], list(zip(within[::2], within[1::2], strict=True)))
    x, y, width, height = within
    corners = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    return box_mark(names[int(first)], *corners)
