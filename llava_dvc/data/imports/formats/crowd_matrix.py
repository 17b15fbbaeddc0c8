"""Crowd counting data sets with a .mat file a picture: ShanghaiTech and UCF-QNRF.

ShanghaiTech has ground_truth/GT_IMG_1.mat for images/IMG_1.jpg, with `image_info`. UCF-QNRF has
img_0001_ann.mat beside img_0001.jpg, with `annPoints`.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.io import loadmat, whosmat

from llava_dvc.data.imports.annotations import (
    PERSON,
    AnnotationError,
    Answer,
    ImportChoices,
    Mark,
    Reading,
    Record,
    point_mark,
)
from llava_dvc.data.imports.count_matrix import require_bounded
from llava_dvc.data.imports.import_files import ImportFiles

_SHANGHAITECH = re.compile(r"GT_(.+)\.mat")
_QNRF = re.compile(r"(.+)_ann\.mat")
_OTHER = ("ground_truth", "ground-truth", "images")
"""Folders beside each other, for labels and pictures."""


def find_crowd_matrices(files: ImportFiles) -> list[Path]:
    return [path for path in files.with_suffix(".mat") if _picture_of(path)]


def _picture_of(path: Path) -> str | None:
    """The picture's path without its suffix; None for a file of another name."""
    if match := _SHANGHAITECH.fullmatch(path.name):
        folder = path.parent.parent if path.parent.name in _OTHER else path.parent
        return str(folder / "images" / match[1])
    if match := _QNRF.fullmatch(path.name):
        return str(path.parent / match[1])
    return None


def read_crowd_matrices(
    files: ImportFiles, paths: Sequence[Path], choices: ImportChoices
) -> Reading:
    """One record for each file, and one for each picture without a file."""
    reading = Reading()
    for path in paths:
        try:
            picture = _picture_of(path)
            if picture is None:
                raise AnnotationError("is not named GT_PICTURE.mat or PICTURE_ann.mat. Rename it.")
            answer = Answer(_heads_in(path), sure=True)
            reading.records.append(Record(str(path), picture, [answer]))
        except AnnotationError as error:
            reading.add_problem(path, error)
    if not reading.problems:
        files.add_unnamed_pictures(reading)
    return reading


def _heads_in(path: Path) -> list[Mark]:
    """The points in one file; raises AnnotationError."""
    try:
        require_bounded(path)
        names = {name for name, _, _ in whosmat(path)}
        known = names & {"image_info", "annPoints"}
        if len(known) != 1:
            raise ValueError(f"it has {', '.join(sorted(names)) or 'nothing'}")
        value: Any = loadmat(path, variable_names=list(known))[known.pop()]
        points = np.asarray(_location_in(value) if value.dtype == object else value, float)
        if points.size and (points.ndim != 2 or points.shape[1] != 2):
            raise ValueError(f"the points have the shape {points.shape}")
        if not np.isfinite(points).all():
            raise ValueError("a point is not finite")
    except Exception as error:  # loadmat raises almost any exception on a broken file
        reason = " ".join(str(error).split()) or type(error).__name__
        raise AnnotationError(
            f"cannot be read ({reason}), expected `image_info` or `annPoints`. Download it again."
        ) from None
    return [point_mark(PERSON, x, y) for x, y in points.reshape(-1, 2).tolist()]


def _location_in(value: Any) -> Any:
    """The points in `image_info`; raises ValueError if their number is another."""
    info = value.item() if value.size == 1 else None
    if info is None or not {"location", "number"} <= set(info.dtype.names or ()):
        raise ValueError("`image_info` has no `location` and `number`")
    location, number = info["location"].item(), int(np.ravel(info["number"].item())[0])
    if len(location) != number:
        raise ValueError(f"it has {len(location)} points, but its number is {number}")
    return location
