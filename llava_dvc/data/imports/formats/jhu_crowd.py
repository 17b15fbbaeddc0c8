"""JHU-CROWD++: a .txt file a picture, one line a head: `x y w h o b`.

`x` and `y` are the middle of the head in pixels, `w` and `h` its size, `o` how much of it is hidden
(1 to 3), and `b` whether it is blurred (0 or 1). train/, val/ and test/ each have images/0001.jpg,
gt/0001.txt and image_labels.txt with lines `0001,count,scene,weather,distractor`.

V. A. Sindagi, R. Yasarla, V. M. Patel, "JHU-CROWD++: Large-Scale Crowd Counting Dataset and A
Benchmark Method", arXiv 2004.03597. The order of the columns is that of the loader JHU_CROWD in
Graviti's tensorbay. No real file of the data set was at hand.
"""

from collections.abc import Sequence
from pathlib import Path

from llava_dvc.data.data_errors import quoted
from llava_dvc.data.imports.annotations import (
    AnnotationError,
    Answer,
    ImportChoices,
    Mark,
    Reading,
    Record,
    count_from,
    number_from,
)
from llava_dvc.data.imports.import_files import ImportFiles, read_small_text

COUNTS = "image_labels.txt"

_HEAD = "head"
_COLUMNS = ("x", "y", "w", "h")
_HIDDEN, _BLURRED = ("1", "2", "3"), ("0", "1")
_MOT = "gt.txt"
"""The tracks of MOTChallenge are in gt/gt.txt."""


def find_jhu_crowd(files: ImportFiles) -> list[Path]:
    """The files in gt/, and in image_labels.txt the counts of the same pictures."""
    heads = [path for path in files.with_suffix(".txt") if _is_head_file(path)]
    folders = {path.parent.parent for path in heads}
    counts = [path for path in files.files if path.name == COUNTS and path.parent in folders]
    return [*heads, *counts]


def _is_head_file(path: Path) -> bool:
    return path.parent.name == "gt" and path.name != _MOT


def read_jhu_crowd(files: ImportFiles, paths: Sequence[Path], choices: ImportChoices) -> Reading:
    """One record for each file in gt/, and one for each picture without such a file."""
    reading = Reading()
    heads: dict[Path, list[Mark]] = {path: [] for path in paths if path.name != COUNTS}
    for path in heads:
        try:
            if not _is_head_file(path):
                raise AnnotationError("is not in a folder named gt. Move it there.")
            lines = read_small_text(path).splitlines()
        except AnnotationError as error:
            reading.add_problem(path, error)
            continue
        heads[path] = _read_heads(path, lines, reading)
        picture = str(path.parent.parent / "images" / path.stem)
        reading.records.append(Record(str(path), picture, [Answer(heads[path], sure=True)]))
    if not reading.problems:
        for path in paths:
            if path.name == COUNTS:
                _compare_counts(path, heads, reading)
    if not reading.problems:
        files.add_unnamed_pictures(reading)
    return reading


def _read_heads(path: Path, lines: Sequence[str], reading: Reading) -> list[Mark]:
    """The heads in one file; adds the problem of each invalid line."""
    marks = []
    for number, line in enumerate(lines, start=1):
        try:
            if line.strip():
                marks.append(_parse_head(line.split()))
        except AnnotationError as error:
            reading.add_problem(f"{path}:{number}", error)
    return marks


def _parse_head(values: Sequence[str]) -> Mark:
    """The box of a head; raises AnnotationError."""
    if len(values) != 6:
        raise AnnotationError(f"has {len(values)} values, expected 6: x y w h o b. Correct it.")
    x, y, width, height = (
        number_from(value, name) for name, value in zip(_COLUMNS, values, strict=False)
    )
    for name, size in (("w", width), ("h", height)):
        if size < 0:
            raise AnnotationError(f"{name} is {size:g}, expected a size from 0. Correct it.")
    for name, value, known in (("o", values[4], _HIDDEN), ("b", values[5], _BLURRED)):
        if value not in known:
            shown = f"{', '.join(known[:-1])} or {known[-1]}"
            raise AnnotationError(f"{name} is {quoted(value)}, expected {shown}. Correct it.")
    return Mark(_HEAD, x - width / 2, y - height / 2, x + width / 2, y + height / 2)


def _compare_counts(path: Path, heads: dict[Path, list[Mark]], reading: Reading) -> None:
    """Adds a problem for each line whose count is not that of the picture's file in gt/."""
    try:
        lines = read_small_text(path).splitlines()
    except AnnotationError as error:
        reading.add_problem(path, error)
        return
    for number, line in enumerate(lines, start=1):
        try:
            if line.strip():
                _compare_count(path, line.split(","), heads)
        except AnnotationError as error:
            reading.add_problem(f"{path}:{number}", error)


def _compare_count(path: Path, values: Sequence[str], heads: dict[Path, list[Mark]]) -> None:
    if len(values) != 5:
        raise AnnotationError(
            f"has {len(values)} values, expected 5: name, count, scene, weather, distractor. "
            "Correct it."
        )
    table = path.parent / "gt" / f"{values[0].strip()}.txt"
    count = count_from(values[1].strip(), "count")
    if table not in heads:
        raise AnnotationError(
            f"{quoted(values[0])} has no file {table}. Put it there, or delete the line."
        )
    if count != len(heads[table]):
        raise AnnotationError(
            f"the count is {count}, but {table} has {len(heads[table])} heads. Correct one of them."
        )
