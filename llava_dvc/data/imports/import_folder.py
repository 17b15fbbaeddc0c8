"""The temporary folder of an import, beside `data`; and what a killed import has left there."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llava_dvc.errors import UserError

PREFIX = ".import-mall-"
"""Of the folder's name. `.gitignore` names it: frames of people must not get into git."""
REPLACED = "replaced"
"""The old `data`, while the new one takes its place."""


@contextmanager
def import_folder(data: Path) -> Iterator[Path]:
    """Yields an empty folder beside `data`, and removes it at the end.

    It is on the disk of `data`, so that the last step of the import is a rename. First removes the
    folder of an import that was killed. Raises UserError while another import runs.
    """
    parent = data.absolute().parent
    with _locked(parent, data):
        for left in parent.glob(f"{PREFIX}*"):
            _put_back(data, left)
            shutil.rmtree(left)
        with tempfile.TemporaryDirectory(prefix=PREFIX, dir=parent) as folder:
            yield Path(folder)


@contextmanager
def _locked(parent: Path, data: Path) -> Iterator[None]:
    """Holds a lock on the folder `parent`; a killed process loses it."""
    descriptor = os.open(parent, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"{data}: another import is running. Wait until it ends, or stop it."
            ) from None
        yield
    finally:
        os.close(descriptor)


def replace_data(data: Path, new: Path, folder: Path) -> None:
    """Renames `new` to `data`. An old `data` stays in place if that fails or is interrupted.

    `folder` is that of `import_folder`.
    """
    try:
        if data.exists():
            data.rename(folder / REPLACED)
        new.rename(data)
    except BaseException:  # Ctrl-C too
        _put_back(data, folder)
        raise


def _put_back(data: Path, folder: Path) -> None:
    """Undoes the first half of `replace_data`."""
    if (folder / REPLACED).exists() and not data.exists():
        (folder / REPLACED).rename(data)
