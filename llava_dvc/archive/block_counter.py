"""Counts the frames of blocks: what each process with a model does."""

import os
import tempfile
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pyarrow as pa
from filelock import FileLock
from PIL import Image

from llava_dvc.archive.node_folder import hold_folder, remove_left_folders
from llava_dvc.archive.reading import HEAD
from llava_dvc.errors import UserError
from llava_dvc.model.adapter import backbone_of_manifest
from llava_dvc.recipe import MANIFEST, Recipe, require_unchanged
from llava_dvc.serving.counter import Counter

COUNTED = pa.schema(
    [
        *HEAD,
        ("count", pa.int64()),
        ("low", pa.int64()),
        ("high", pa.int64()),
        ("probabilities", pa.list_(pa.float64())),
        ("seconds", pa.float64()),
    ]
)
"""`seconds` is how long the process has counted, from the loaded model on. None before that."""


@dataclass(frozen=True)
class ArchiveModel:
    """The adapter, as each process finds it."""

    folder: Path
    """Absolute. It is there on every node."""
    home: Path
    """The folder in which the command runs: the backbone's name may be relative to it."""
    job: str
    """Another one for every run, so that each node checks the adapter again."""


class BlockCounter:
    """Counts rows of `read_block`. It loads the model at its first rows."""

    def __init__(self, model: ArchiveModel) -> None:
        self._model = model
        self._began: float | None = None

    def __call__(self, table: pa.Table) -> pa.Table:
        """Returns the rows in the same order, with the counts in place of the pixels.

        If the model cannot count, the only row is of no block, and has the reason.
        """
        try:
            return self._count(table)
        except UserError as error:  # raised here, it would arrive in the middle of a traceback
            return pa.Table.from_pylist([{"error": str(error)}], COUNTED)

    def _count(self, table: pa.Table) -> pa.Table:
        rows = table.drop_columns("rgb").to_pylist()
        # The bytes of one frame at a time: those of a table of 4K take 400 MB.
        images = [
            _image(row["width"], rgb.as_py()) for row, rgb in zip(rows, table["rgb"], strict=True)
        ]
        seen = [(row, image) for row, image in zip(rows, images, strict=True) if image]
        pictures = [image for _, image in seen]
        counts = self._counter.count_in(pictures, None, fill=True) if pictures else []
        for (row, _), count in zip(seen, counts, strict=True):
            row |= vars(count)
        seconds = None if self._began is None else time.monotonic() - self._began
        rows = [row | {"seconds": seconds} for row in rows]
        return pa.Table.from_pylist(rows, COUNTED)

    @cached_property
    def _counter(self) -> Counter:
        if self._model.home.is_dir():
            os.chdir(self._model.home)
        counter = Counter.from_pretrained(checked_folder(self._model))
        self._began = time.monotonic()
        return counter


def checked_folder(model: ArchiveModel) -> Path:
    """The adapter's folder after a check by its manifest, which the first caller on a node makes.

    It is a folder of links without the manifest, so that loading does not check again. The end of
    the job removes it, or the next job if this one is killed. Raises UserError when a file or the
    backbone is not that of the manifest.
    """
    remove_left_folders()
    folder = hold_folder(model.job)
    links = folder / "adapter"
    with FileLock(folder / "lock"):
        if not links.exists():
            require_unchanged(model.folder)
            with backbone_of_manifest(model.folder, Recipe.read(model.folder).backbone):
                pass
            _link(model.folder, links)
    return links


def _link(folder: Path, links: Path) -> None:
    """Makes the links whole or not at all."""
    new = Path(tempfile.mkdtemp(dir=links.parent))
    for path in folder.iterdir():
        if path.name != MANIFEST:
            (new / path.name).symlink_to(path)
    new.rename(links)


def _image(width: int, rgb: bytes | None) -> Image.Image | None:
    return Image.frombytes("RGB", (width, len(rgb) // (3 * width)), rgb) if rgb else None
