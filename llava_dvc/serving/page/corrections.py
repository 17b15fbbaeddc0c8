"""`serve --keep-corrections DIR`: frames that users corrected, as `llava-dvc import` reads them.

DIR gets frames/ and labels.csv (`frame,count`). The table is read again for each correction, so the
operator may edit it, and may delete a frame with its row.
"""

import csv
import hashlib
import io
import os
import re
import sys
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from llava_dvc.data.data_errors import DataError
from llava_dvc.data.labels import read_labels
from llava_dvc.errors import UserError
from llava_dvc.files import new_file

MAX_CORRECTIONS = 5000
MAX_CORRECTION_BYTES = 2_000_000_000
"""Of all frames together."""
SUFFIXES = {
    b"\xff\xd8": ".jpg", b"\x89P": ".png", b"RI": ".webp", b"BM": ".bmp", b"II": ".tiff",
    b"MM": ".tiff",
}  # fmt: skip
"""By the first two bytes of a picture that `decode_image` accepts."""

_NAME = re.compile(r"[0-9]{8}T[0-9]{6}Z-([0-9a-f]{16})\.[a-z]{3,4}")


class CorrectionsFull(Exception):
    """The folder has as many corrections as it may, or the disk is full."""


class CorrectionFolder:
    """A folder of corrections. One process holds it at a time."""

    def __init__(self, folder: Path) -> None:
        """Makes the folder if it is not there. Raises UserError when it cannot be used."""
        self._folder, self._frames = folder, folder / "frames"
        self._labels = folder / "labels.csv"
        self._one_at_a_time = threading.Lock()
        self._held = FileLock(folder / ".lock")
        try:
            self._frames.mkdir(parents=True, exist_ok=True)
            self._held.acquire(timeout=0)
        except Timeout:
            raise UserError(
                f"--keep-corrections: {folder} is used by another `llava-dvc serve`. Name another "
                "folder."
            ) from None
        except OSError as error:
            raise UserError(
                f"--keep-corrections: {folder} cannot be used as a folder ({error.strerror}). Name "
                "a folder that you may write to."
            ) from None
        self._check()

    def keep(self, content: bytes, count: int) -> int:
        """Keeps a frame with its right count, whole or not at all; returns how many are kept.

        A frame that is kept already gets the new count. `content` is a picture that `decode_image`
        accepts. Raises CorrectionsFull.
        """
        with self._one_at_a_time:
            counts = self._counts()
            name = _name_of(content, counts)
            path = self._frames / name
            is_new = not path.exists()
            if is_new:
                self._require_room(len(content))
            try:
                if is_new:
                    _write(path, content)
                _write(self._labels, _table({**counts, name: count}))
            except BaseException as error:
                if is_new:
                    path.unlink(missing_ok=True)
                if isinstance(error, OSError | UserError):  # UserError: too little is free
                    raise CorrectionsFull(str(error)) from error
                raise
            return len(counts | {name: count})

    def close(self) -> None:
        self._held.release()

    def _counts(self) -> dict[str, int]:
        """The rows of labels.csv; raises DataError."""
        if not self._labels.exists():
            return {}
        return {label.name: label.count for label in read_labels(self._labels)}

    def _check(self) -> None:
        """Raises UserError for a folder of other frames. Deletes a frame that a kill left alone."""
        try:
            counts = self._counts()
        except DataError as error:
            raise UserError(f"--keep-corrections: {error.problems[0]}") from None
        files = {path.name for path in self._frames.iterdir() if not path.name.startswith(".")}
        others = sorted(name for name in files | counts.keys() if not _NAME.fullmatch(name))
        alone = sorted(files - counts.keys())
        if others:
            raise UserError(
                f"--keep-corrections: {self._folder} has {others[0]!r}, which `llava-dvc serve` "
                "did not write. Name an empty folder."
            )
        if len(alone) > 1:  # a kill leaves at most one
            raise UserError(
                f"--keep-corrections: {self._frames} has {len(alone)} frames without a row in "
                "labels.csv. Delete them, or name an empty folder."
            )
        for name in alone:
            (self._frames / name).unlink()
            sys.stderr.write(f"{self._frames / name}: had no label, and was deleted.\n")

    def _require_room(self, size: int) -> None:
        sizes = [path.stat().st_size for path in self._frames.iterdir()]
        if len(sizes) >= MAX_CORRECTIONS:
            raise CorrectionsFull(f"{self._folder}: has {len(sizes)} frames, as many as it may")
        if sum(sizes) + size > MAX_CORRECTION_BYTES:
            raise CorrectionsFull(f"{self._folder}: has {sum(sizes):,} bytes, and gets no more")


def _name_of(content: bytes, counts: Mapping[str, int]) -> str:
    """The frame's name in `counts` if it is there, else a new one. Names sort by time."""
    digest = hashlib.sha256(content).hexdigest()[:16]
    for name in counts:
        if (known := _NAME.fullmatch(name)) and known[1] == digest:
            return name
    return f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{digest}{SUFFIXES[content[:2]]}"


def _table(counts: Mapping[str, int]) -> bytes:
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["frame", "count"])
    rows.writerows(sorted(counts.items()))
    return text.getvalue().encode()


def _write(path: Path, content: bytes) -> None:
    with new_file(path) as partial, partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
