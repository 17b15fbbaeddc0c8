"""The formats that `llava-dvc import` knows, and which of them a folder has."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from llava_dvc.data.data_errors import DataError
from llava_dvc.data.imports.annotations import AnnotationError, ImportChoices, Reading
from llava_dvc.data.imports.formats.coco import find_coco, read_coco
from llava_dvc.data.imports.formats.crowd_matrix import find_crowd_matrices, read_crowd_matrices
from llava_dvc.data.imports.formats.cvat import find_cvat, read_cvat
from llava_dvc.data.imports.formats.jhu_crowd import find_jhu_crowd, read_jhu_crowd
from llava_dvc.data.imports.formats.label_studio import find_label_studio, read_label_studio
from llava_dvc.data.imports.formats.tables import find_tables, read_tables
from llava_dvc.data.imports.formats.voc import find_voc, read_voc
from llava_dvc.data.imports.formats.yolo import find_yolo, read_yolo
from llava_dvc.data.imports.import_files import ImportFiles
from llava_dvc.data.labels import HEADER
from llava_dvc.data.table import read_rows
from llava_dvc.errors import UserError


class AnnotationFormat(NamedTuple):
    title: str
    suffixes: Sequence[str]
    """Of its annotation files."""
    find: Callable[[ImportFiles], list[Path]]
    """The annotation files of this format."""
    read: Callable[[ImportFiles, Sequence[Path], ImportChoices], Reading]


OWN = "mall"
"""Frames with our labels.csv, or Mall with mall_gt.mat. `mall.py` imports them."""

TABLE = "csv"

FORMATS = {
    "coco": AnnotationFormat("COCO JSON", (".json",), find_coco, read_coco),
    "yolo": AnnotationFormat("YOLO", (".yaml", ".yml", ".names"), find_yolo, read_yolo),
    "voc": AnnotationFormat("Pascal VOC", (".xml",), find_voc, read_voc),
    "cvat": AnnotationFormat("CVAT", (".xml",), find_cvat, read_cvat),
    "label-studio": AnnotationFormat(
        "Label Studio JSON", (".json",), find_label_studio, read_label_studio
    ),
    "crowd-mat": AnnotationFormat(
        "ShanghaiTech or UCF-QNRF", (".mat",), find_crowd_matrices, read_crowd_matrices
    ),
    "jhu": AnnotationFormat("JHU-CROWD++", (".txt",), find_jhu_crowd, read_jhu_crowd),
    TABLE: AnnotationFormat("CSV", (".csv",), find_tables, read_tables),
}


def recognise_format(files: ImportFiles) -> str:
    """The name of the one format that the files have, or OWN; raises UserError."""
    found = {name: paths for name, entry in FORMATS.items() if (paths := entry.find(files))}
    if own := find_own_labels(files):
        found[OWN] = own
    if len(found) > 1:
        found.pop(TABLE, None)  # many data sets have other tables too
    if len(found) == 1:
        return next(iter(found))
    names = ", ".join([*FORMATS, OWN])
    if not found:
        _require_readable(files)
        raise UserError(
            f"{files.root}: {len(files.pictures.paths)} pictures and {len(files.files)} other "
            f"files, but no annotations in a known format. Write a labels.csv (docs/data.md), or "
            f"name the format with --format ({names})."
        )
    each = " and ".join(f"{name} ({paths[0].name})" for name, paths in found.items())
    raise UserError(
        f"{files.root}: has annotations in several formats: {each}. Choose one with --format."
    )


def _require_readable(files: ImportFiles) -> None:
    """Raises UserError for the first JSON or XML file that is broken."""
    for suffix, read in ((".json", files.json), (".xml", files.xml)):
        for path in files.with_suffix(suffix):
            try:
                read(path)
            except AnnotationError as error:
                raise UserError(f"{path}: {error}") from None


def find_own_labels(files: ImportFiles) -> list[Path]:
    """mall_gt.mat, or a labels.csv with a header of our own."""
    return [
        path
        for path in files.files
        if path.name == "mall_gt.mat" or (path.name == "labels.csv" and has_own_header(path))
    ]


def has_own_header(path: Path) -> bool:
    """Whether a table can be taken as labels.csv as it is."""
    try:
        next(read_rows(path, HEADER), None)
    except DataError:
        return False
    return True
