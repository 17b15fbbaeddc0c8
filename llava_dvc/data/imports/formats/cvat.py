"""CVAT XML 1.1: "for images" has shapes in pictures, "for video" has tracks over frames.

https://docs.cvat.ai/docs/other/xml_format
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from xml.etree.ElementTree import Element

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
    spanning_mark,
    text_from,
    turned_mark,
)
from llava_dvc.data.imports.formats.cvat_tracks import TrackedShape, shapes_by_frame
from llava_dvc.data.imports.import_files import ImportFiles, PictureIndex

_IGNORED = {"attribute", "tag"}


def find_cvat(files: ImportFiles) -> list[Path]:
    return [path for path in files.with_suffix(".xml") if files.xml_tag(path) == "annotations"]


def read_cvat(files: ImportFiles, paths: Sequence[Path], choices: ImportChoices) -> Reading:
    """One record for each picture in the files. Shapes that are `outside` are left out, and
    `occluded` ones are people like others.
    """
    reading = Reading()
    for path in paths:
        try:
            root = files.xml(path)
            if root.tag != "annotations":
                raise AnnotationError(f"begins with <{root.tag}>, expected <annotations>.")
            reading.categories += _labels_in(root)
            if root.find("track") is not None:
                _TrackFile(path, root, reading).read(files.pictures)
            else:
                _read_images(path, root, reading)
        except AnnotationError as error:
            reading.add_problem(path, error)
    return reading


def _labels_in(root: Element) -> Iterator[str]:
    """Names of the labels, without the parts of a skeleton."""
    for label in root.iterfind("meta//labels/label"):
        if label.find("parent") is None and (name := label.findtext("name")):
            yield name


def _read_images(path: Path, root: Element, reading: Reading) -> None:
    for number, image in enumerate(root.iterfind("image")):
        place = f"{path}: image {image.get('id', number)}"
        try:
            name = text_from(image.get("name"), "name")
            size = (
                count_from(image.get("width"), "width"),
                count_from(image.get("height"), "height"),
            )
            shapes = [shape for shape in image if shape.tag not in _IGNORED]
            marks = [mark for shape in shapes for mark in marks_of(shape, shape.get("label"))]
            sure = image.find("tag") is not None
            reading.records.append(Record(place, name, [Answer(marks, sure=sure)], size=size))
        except AnnotationError as error:
            reading.add_problem(place, error)


# --- shapes -------------------------------------------------------------------------------------


def marks_of(shape: Element, label: str | None) -> list[Mark]:
    """The marks of one shape: one, but for `points` one for each; raises AnnotationError."""
    category = text_from(label, "label")
    if shape.get("outside") == "1":
        return []
    if shape.tag == "points":
        return [point_mark(category, x, y) for x, y in _points_of(shape)]
    if shape.tag not in _BOXES:
        raise AnnotationError(
            f"a <{shape.tag}> of {quoted(category)} cannot be counted. Mark people with boxes or "
            "points."
        )
    return [_BOXES[shape.tag](shape, category)]


def _numbers(shape: Element, *names: str) -> list[float]:
    return [number_from(shape.get(name), name) for name in names]


def _points_of(shape: Element) -> list[tuple[float, float]]:
    points = []
    for pair in text_from(shape.get("points"), "points").split(";"):
        values = [number_from(value, "points") for value in pair.split(",")]
        if len(values) != 2:
            raise AnnotationError(f"points has {quoted(pair)}, expected x and y. Correct it.")
        points.append((values[0], values[1]))
    return points


def _turned(mark: Mark, shape: Element) -> Mark:
    middle = (mark.left + mark.right) / 2, (mark.top + mark.bottom) / 2
    return turned_mark(mark, number_from(shape.get("rotation", "0"), "rotation"), middle)


def _box_of(shape: Element, category: str) -> Mark:
    return _turned(box_mark(category, *_numbers(shape, "xtl", "ytl", "xbr", "ybr")), shape)


def _ellipse_of(shape: Element, category: str) -> Mark:
    x, y, across, down = _numbers(shape, "cx", "cy", "rx", "ry")
    return _turned(box_mark(category, x - across, y - down, x + across, y + down), shape)


def _mask_of(shape: Element, category: str) -> Mark:
    left, top, width, height = _numbers(shape, "left", "top", "width", "height")
    return box_mark(category, left, top, left + width, top + height)


def _polygon_of(shape: Element, category: str) -> Mark:
    return spanning_mark(category, _points_of(shape))


def _skeleton_of(shape: Element, category: str) -> Mark:
    """The box around the points that are not `outside`."""
    parts = [part for part in shape.iterfind("points") if part.get("outside") != "1"]
    points = [point for part in parts for point in _points_of(part)]
    if not points:
        raise AnnotationError(f"a skeleton of {quoted(category)} has no points. Delete it.")
    return spanning_mark(category, points)


_BOXES: Mapping[str, Callable[[Element, str], Mark]] = {
    "box": _box_of,
    "ellipse": _ellipse_of,
    "mask": _mask_of,
    "polygon": _polygon_of,
    "skeleton": _skeleton_of,
}


# --- tracks -------------------------------------------------------------------------------------


class _TrackFile:
    """One file "for video" while it is read."""

    def __init__(self, path: Path, root: Element, reading: Reading) -> None:
        self.path, self.root, self.reading = path, root, reading

    def read(self, pictures: PictureIndex) -> None:
        """A record for each picture whose number is a frame; raises AnnotationError."""
        if self.root.find("image") is not None:
            raise AnnotationError("has images and tracks. Export it as one of the two.")
        if len(self.root.findall("meta//task")) > 1:
            raise AnnotationError("has several tasks. Export and import them one by one.")
        numbered = _by_number(pictures)
        frames = self._frames(max(numbered, default=0))
        for number, picture in numbered.items():
            if number not in frames:
                raise AnnotationError(
                    f"picture {picture.name} is not a frame of the task ({frames.start} to "
                    f"{frames[-1]}, step {frames.step}). CVAT counts from 0. Name the pictures by "
                    "CVAT's numbers, or export them too."
                )
        marks = self._marks(frames)
        for number, picture in numbered.items():
            place = f"{self.path}: frame {number}"
            answer = Answer(marks.get(number, ()))
            record = Record(place, str(picture), [answer], size=self._size())
            self.reading.records.append(record)
        if unseen := len(marks.keys() - numbered.keys()):
            self.reading.notes.append(f"Frames with people but without a picture: {unseen}.")

    def _frames(self, last: int) -> range:
        """The frames of the task; `last` is the last one if the file does not say it."""
        start, stop = self._frame_of("start_frame") or 0, self._frame_of("stop_frame")
        step = re.search(r"step\s*=\s*([0-9]{1,6})", self.root.findtext("meta//frame_filter") or "")
        stop = max(last if stop is None else stop, start)
        return range(start, stop + 1, int(step[1]) or 1 if step else 1)

    def _frame_of(self, name: str) -> int | None:
        text = self.root.findtext(f"meta//{name}")
        return count_from(text, name) if text else None

    def _size(self) -> Size | None:
        width, height = (
            self.root.findtext(f"meta//original_size/{side}") for side in ("width", "height")
        )
        if width is None or height is None:
            return None
        return count_from(width, "width"), count_from(height, "height")

    def _marks(self, frames: range) -> dict[int, list[Mark]]:
        """The marks in each frame; adds the problem of each invalid track."""
        marks: dict[int, list[Mark]] = {}
        keyframes_only = self.root.find("track/*[@keyframe='0']") is None
        for number, track in enumerate(self.root.iterfind("track")):
            place = f"{self.path}: track {track.get('id', number)}"
            try:
                shapes = shapes_by_frame(self._shapes(track), frames, keyframes_only)
                for frame, found in shapes.items():
                    marks.setdefault(frame, []).extend(found)
            except AnnotationError as error:
                self.reading.add_problem(place, error)
        return marks

    def _shapes(self, track: Element) -> Iterator[TrackedShape]:
        for shape in track:
            if shape.tag not in _IGNORED:
                frame = count_from(shape.get("frame"), "frame")
                yield TrackedShape(frame, marks_of(shape, track.get("label")))


def _by_number(pictures: PictureIndex) -> dict[int, Path]:
    """The pictures by the last number in their names; raises AnnotationError."""
    numbered: dict[int, Path] = {}
    for path in pictures.paths:
        digits = re.search(r"([0-9]+)$", path.stem)
        if digits is None:
            raise AnnotationError(
                f"picture {path.name} has no frame number at the end of its name, such as "
                "frame_000012.png. Rename it."
            )
        twin = numbered.setdefault(int(digits[1]), path)
        if twin is not path:
            raise AnnotationError(f"{path} and {twin} have one frame number. Remove one.")
    return numbered
