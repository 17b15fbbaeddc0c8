"""The frames in `data/`, with and without a label."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

from llava_dvc.data.data_errors import printable_name
from llava_dvc.data.folders import FrameFiles
from llava_dvc.data.images import is_picture_name
from llava_dvc.data.labels import Label, natural_key, read_labels
from llava_dvc.errors import UserError


@dataclass(frozen=True)
class LabelPool:
    """The pictures in `data/frames`, in order of time, and the labels that some of them have."""

    data: Path
    names: list[str]
    labels: dict[str, Label]

    @property
    def unlabelled(self) -> list[str]:
        return [name for name in self.names if name not in self.labels]

    def path(self, name: str) -> Path:
        return self.data / "frames" / name

    def group(self, name: str) -> str:
        """What is taken for the camera of a frame if nobody has said it: its folder."""
        return self.camera(name) or str(PurePosixPath(name).parent)

    def camera(self, name: str) -> str | None:
        """The frame's camera, or that of all labelled frames in its folder; None if unknown."""
        if name in self.labels:
            return self.labels[name].camera
        found = self._cameras.get(str(PurePosixPath(name).parent), set())
        return next(iter(found)) if len(found) == 1 else None

    @cached_property
    def _cameras(self) -> dict[str, set[str | None]]:
        """The cameras of the labelled frames in each folder."""
        found: dict[str, set[str | None]] = {}
        for label in self.labels.values():
            found.setdefault(str(PurePosixPath(label.name).parent), set()).add(label.camera)
        return found


def read_pool(data: Path, exclude: Sequence[str]) -> LabelPool:
    """Reads the names of all frames except those in `exclude`, and their labels.

    Raises UserError if there are no frames, or if labels.csv has an error.
    """
    folder, table = data / "frames", data / "labels.csv"
    if not folder.is_dir():
        raise UserError(
            f"{folder}: not found. Put frames there, or write those of a recording with "
            "`llava-dvc frames VIDEO`."
        )
    pictures = {name for name in FrameFiles(data).names if is_picture_name(name)} - set(exclude)
    labels = read_labels(table) if table.exists() else []
    for label in labels:
        if label.name not in pictures and label.name not in exclude:
            raise UserError(
                f"{table}:{label.line}: frame {folder / printable_name(label.name)} does not "
                "exist. Add the file, or delete the line."
            )
    if not pictures:
        raise UserError(f"{folder}: has no picture. Put frames there.")
    kept = {label.name: label for label in labels if label.name in pictures}
    return LabelPool(data, sorted(pictures, key=natural_key), kept)
