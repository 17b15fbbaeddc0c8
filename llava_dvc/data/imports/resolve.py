"""Makes labelled frames of what annotation files say, and finds everything that prevents it."""

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import mean, median_high
from typing import NamedTuple

from llava_dvc.data.data_errors import DataProblem, printable_name
from llava_dvc.data.folders import is_inside, link_problem
from llava_dvc.data.images import ImageError, Size, decode_image, read_image_bytes
from llava_dvc.data.imports.annotations import (
    AnnotationError,
    Answer,
    ImportChoices,
    Mark,
    Reading,
    Record,
)
from llava_dvc.data.imports.import_files import PictureIndex
from llava_dvc.data.labels import MAX_COUNT
from llava_dvc.data.points import Points

_PEOPLE = {"person", "people", "pedestrian", "human", "head"}
"""Names of categories that need no --category, if a file has exactly one of them."""

_BEYOND = 0.1
"""A head may be marked outside its picture by this share of the picture's side."""


@dataclass(frozen=True)
class LabelledPicture:
    """A frame to be: a picture, the people in it, and where they are, if that is known."""

    path: Path
    count: int
    points: Points | None
    camera: str | None


class _Checked(NamedTuple):
    size: Size
    digest: bytes


@dataclass
class Resolved:
    """The frames of an import. Without `problems` they can be written."""

    frames: list[LabelledPicture] = field(default_factory=list)
    unlabelled: list[Path] = field(default_factory=list)
    """Pictures that stay without a label."""
    problems: list[DataProblem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, kind: str, place: object, error: object) -> None:
        self.problems.append(DataProblem(kind, str(place), str(error)))


def resolve_reading(reading: Reading, pictures: PictureIndex, choices: ImportChoices) -> Resolved:
    """Finds the picture of each record, counts its people, and checks both."""
    resolved = Resolved(problems=list(reading.problems), notes=list(reading.notes))
    try:
        chosen = _choose_categories(reading, choices, resolved)
    except AnnotationError as error:
        resolved.add("category", reading.records[0].place, error)
        return resolved
    found = _find_pictures(reading.records, pictures, resolved, choices.keep_unlabelled)
    found = _settle_blank(found, choices, resolved)
    checked = _check_pictures(pictures.root, [path for _, path in found], resolved)
    for record, path in found:
        if path in checked:
            _resolve_one(record, path, checked[path].size, _Rules(chosen, choices), resolved)
    _refuse_twins(resolved, checked)
    _note_annotators(reading.records, chosen, resolved)
    return resolved


# --- which categories are people ----------------------------------------------------------------


def _choose_categories(reading: Reading, choices: ImportChoices, resolved: Resolved) -> set[str]:
    """The categories and number fields to count; raises AnnotationError when it is not clear."""
    answers = [answer for record in reading.records for answer in record.answers]
    marked = {mark.category for answer in answers for mark in answer.marks}
    categories = sorted({*reading.categories, *marked})
    fields = sorted({name for answer in answers for name in answer.numbers})
    if choices.categories:
        wanted = {name.casefold() for name in choices.categories}
        known = {name for name in [*categories, *fields] if name.casefold() in wanted}
        if missing := wanted - {name.casefold() for name in known}:
            raise AnnotationError(
                f"has no category {min(missing)!r}. It has: "
                f"{_shown_names([*categories, *fields])}. Correct --category."
            )
        return known
    people = [name for name in categories if name.casefold() in _PEOPLE]
    chosen = categories if len(categories) == 1 else people
    if len(chosen) > 1 or len(fields) > 1 or (categories and not chosen):
        names = [*categories, *(fields if len(fields) > 1 else [])]
        raise AnnotationError(
            f"has the categories {_shown_names(names)}. Say which of them to count: --category "
            f"{chosen[0] if chosen else names[0]!r}; repeat it for several."
        )
    if others := [name for name in categories if name not in chosen]:
        resolved.notes.append(f"Counted is {chosen[0]}. Not counted: {_shown_names(others)}.")
    return {*chosen, *fields}


def _shown_names(names: Sequence[str]) -> str:
    shown = ", ".join(printable_name(name) for name in names[:10])
    return f"{shown} and {len(names) - 10} more" if len(names) > 10 else shown


# --- pictures -----------------------------------------------------------------------------------


def _find_pictures(
    records: Sequence[Record], pictures: PictureIndex, resolved: Resolved, keep: bool
) -> list[tuple[Record, Path]]:
    """Each record with its picture; only one record may have the same.

    With `keep`, the other pictures stay without a label.
    """
    first: dict[Path, Record] = {}
    for record in records:
        try:
            path = pictures.find(record.picture)
        except AnnotationError as error:
            resolved.add("missing", record.place, error)
            continue
        twin = first.setdefault(path, record)
        if twin is not record:
            text = f"is annotated here and in {twin.place}. Keep one, or import one file alone."
            resolved.add("twice", record.place, f"picture {printable_name(str(path))} {text}")
    if left := [path for path in pictures.paths if path not in first]:
        fate = _fate_of_unlabelled(left, keep, resolved)
        resolved.notes.append(f"Pictures that no annotation names {fate}: {len(left)}.")
    return [(record, path) for path, record in first.items()]


def _settle_blank(
    found: list[tuple[Record, Path]], choices: ImportChoices, resolved: Resolved
) -> list[tuple[Record, Path]]:
    """Drops pictures without annotation, keeps them, or asks, as `choices.empty` says."""
    blank = [path for record, path in found if _is_blank(record)]
    if not blank:
        return found
    pictures = "1 picture has" if len(blank) == 1 else f"{len(blank)} pictures have"
    if choices.empty is None and resolved.problems:
        return found  # perhaps the annotations that cannot be read are theirs
    if choices.empty is None:
        text = (
            f"{pictures} no annotation, such as {printable_name(blank[0].name)}. Add --empty zero "
            "if nobody is on them, or --empty skip if they were not labelled."
        )
        resolved.add("empty", blank[0].parent, text)
    else:
        fate = "get the count 0"
        if choices.empty == "skip":
            fate = _fate_of_unlabelled(blank, choices.keep_unlabelled, resolved)
        resolved.notes.append(f"Pictures without annotation {fate}: {len(blank)}.")
    if choices.empty == "zero":
        return found
    return [(record, path) for record, path in found if not _is_blank(record)]


def _fate_of_unlabelled(paths: Sequence[Path], keep: bool, resolved: Resolved) -> str:
    """What becomes of pictures without a label, in words."""
    if keep:
        resolved.unlabelled += paths
    return "stay without a label" if keep else "are left out"


def _is_blank(record: Record) -> bool:
    return all(answer.blank for answer in record.answers)


def _check_pictures(root: Path, paths: Sequence[Path], resolved: Resolved) -> dict[Path, _Checked]:
    """Size and digest of each picture that can be used."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = dict(zip(paths, pool.map(partial(_check_picture, root), paths), strict=True))
    resolved.problems += [x for x in results.values() if isinstance(x, DataProblem)]
    return {path: result for path, result in results.items() if isinstance(result, _Checked)}


def _check_picture(root: Path, path: Path) -> _Checked | DataProblem:
    try:
        if not is_inside(path, root):
            return link_problem(path, root)
        content = read_image_bytes(path)
        return _Checked(decode_image(content).size, hashlib.sha256(content).digest())
    except ImageError as error:
        text = f"{error}. Replace the picture, or remove it with its annotation."
        return DataProblem(error.kind, str(path), text)


def _refuse_twins(resolved: Resolved, checked: dict[Path, _Checked]) -> None:
    first: dict[bytes, LabelledPicture] = {}
    for frame in resolved.frames:
        twin = first.setdefault(checked[frame.path].digest, frame)
        if twin is not frame:
            counts = f"their counts are {twin.count} and {frame.count}"
            text = f"is the same picture as {twin.path}; {counts}. Remove one with its annotation."
            resolved.add("duplicate", frame.path, text)


# --- counts and points --------------------------------------------------------------------------


class _Rules(NamedTuple):
    chosen: set[str]
    choices: ImportChoices


def _resolve_one(record: Record, path: Path, size: Size, rules: _Rules, resolved: Resolved) -> None:
    """Adds the frame of a record, or its problem."""
    place = f"{record.place}: {printable_name(record.picture)}"
    try:
        if record.size and record.size != size:
            raise AnnotationError(
                "the annotation is for {}x{} pixels, but the picture has {}x{}. Put the annotated "
                "picture there.".format(*record.size, *size)
            )
        counted = [_count_answer(a, rules) for a in record.answers if not a.blank] or [(0, [])]
        count = median_high(number for number, _ in counted)
        if count > MAX_COUNT:
            raise AnnotationError(f"the count is {count:,}, more than {MAX_COUNT}. Correct it.")
        marks = next(marks for number, marks in counted if number == count)
        points = None if marks is None else [_pixels(m, size, record.relative) for m in marks]
    except AnnotationError as error:
        resolved.add("annotation", place, error)
    else:
        resolved.frames.append(LabelledPicture(path, count, points, record.camera))


def _count_answer(answer: Answer, rules: _Rules) -> tuple[int, list[Mark] | None]:
    """The number of people, and their marks if all are marked; raises AnnotationError."""
    marks = [mark for mark in answer.marks if mark.category in rules.chosen]
    crowds = sum(mark.crowd for mark in marks)
    if crowds and not rules.choices.ignore_crowds:
        raise AnnotationError(
            f"{crowds} of its people are a crowd of unknown number (iscrowd). Add --crowd ignore "
            "to count only the others, or delete the annotation of this picture."
        )
    marks = [mark for mark in marks if not mark.crowd]
    if len(set(marks)) < len(marks):
        twin = next(mark for i, mark in enumerate(marks) if mark in marks[:i])
        x, y = twin.left, twin.top
        raise AnnotationError(f"two equal marks are at ({x:g}, {y:g}). Delete one of them.")
    numbers = [number for name, number in answer.numbers.items() if name in rules.chosen]
    if not numbers:
        return len(marks), marks
    number = sum(numbers)
    if marks and number != len(marks):
        raise AnnotationError(
            f"the count is {number}, but {len(marks)} people are marked. Correct one of the two."
        )
    return number, marks if number == len(marks) else None


def _pixels(mark: Mark, size: Size, relative: bool) -> tuple[float, float]:
    """The point of a mark, inside the picture; raises AnnotationError."""
    width, height = size
    category, left, top, right, bottom, _ = mark.scaled(*size) if relative else mark
    beyond = (0, 0) if right > left else (_BEYOND * width, _BEYOND * height)
    outside = right < -beyond[0] or left > width + beyond[0]
    if outside or bottom < -beyond[1] or top > height + beyond[1]:
        raise AnnotationError(
            f"a mark at ({left:g}, {top:g}) lies outside its {width}x{height} pixels. Correct it, "
            "or delete it."
        )
    left, right = (min(max(x, 0), width) for x in (left, right))
    top, bottom = (min(max(y, 0), height) for y in (top, bottom))
    return Mark(category, left, top, right, bottom).point()


# --- several annotators -------------------------------------------------------------------------


def _note_annotators(records: Iterable[Record], chosen: set[str], resolved: Resolved) -> None:
    """Says how far the annotators of the same picture differ."""
    spreads = dict(_spreads(records, chosen))
    if spreads:
        widest = max(spreads, key=lambda name: spreads[name])
        resolved.notes.append(
            f"Pictures with several annotators: {len(spreads)}. Their counts differ by "
            f"{mean(spreads.values()):.1f} on average, at most by {spreads[widest]} "
            f"({printable_name(widest)}). The median is taken."
        )


def _spreads(records: Iterable[Record], chosen: set[str]) -> Iterator[tuple[str, int]]:
    """The largest difference between two annotators of each picture that has several."""
    rules = _Rules(chosen, ImportChoices(ignore_crowds=True))
    for record in records:
        answers = [answer for answer in record.answers if not answer.blank]
        if len(answers) > 1:
            try:
                counts = [_count_answer(answer, rules)[0] for answer in answers]
            except AnnotationError:
                continue  # `_resolve_one` reports it
            yield record.picture, max(counts) - min(counts)
