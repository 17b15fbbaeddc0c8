"""Pascal VOC: an XML file a picture, with the boxes in it.

http://host.robots.ox.ac.uk/pascal/VOC/voc2012/devkit_doc.pdf
"""

from collections.abc import Sequence
from pathlib import Path
from xml.etree.ElementTree import Element

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
    text_from,
)
from llava_dvc.data.imports.import_files import ImportFiles

_SIDES = ("xmin", "ymin", "xmax", "ymax")


def find_voc(files: ImportFiles) -> list[Path]:
    return [path for path in files.with_suffix(".xml") if files.xml_tag(path) == "annotation"]


def read_voc(files: ImportFiles, paths: Sequence[Path], choices: ImportChoices) -> Reading:
    """One record for each file, and one for each picture without a file."""
    reading = Reading()
    for path in paths:
        try:
            root = files.xml(path)
            if root.tag != "annotation":
                raise AnnotationError(f"begins with <{root.tag}>, expected <annotation>.")
            reading.records.append(_record_in(path, root, reading))
        except AnnotationError as error:
            reading.add_problem(path, error)
    if not reading.problems:
        files.add_unnamed_pictures(reading)
    return reading


def _record_in(path: Path, root: Element, reading: Reading) -> Record:
    """What one file says; raises AnnotationError, and adds the problem of each invalid object."""
    name = text_from(root.findtext("filename"), "<filename>").strip()
    marks = []
    for number, entry in enumerate(root.findall("object"), start=1):
        try:
            marks.append(_mark_in(entry))
        except AnnotationError as error:
            reading.add_problem(f"{path}: object {number}", error)
    return Record(str(path), name, [Answer(marks)], size=_size_in(root))


def _size_in(root: Element) -> Size | None:
    """None if the file has none, or zeros, as some tools write."""
    width, height = root.findtext("size/width"), root.findtext("size/height")
    if width is None or height is None:
        return None
    size = count_from(width, "<width>"), count_from(height, "<height>")
    return size if all(size) else None


def _mark_in(entry: Element) -> Mark:
    name = text_from(entry.findtext("name"), "<name>").strip()
    sides = [number_from(entry.findtext(f"bndbox/{side}"), f"<{side}>") for side in _SIDES]
    return box_mark(name, *sides)
