"""A folder of a job on a node, in the folder for temporary files."""

import fcntl
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

PREFIX = f"llava-dvc-{os.getuid()}-"


def hold_folder(job: str) -> Path:
    """Returns the folder of a job, which is made if it is not there.

    This process holds it until it ends, in whatever way: `remove_left_folders` leaves it alone.
    """
    folder = _folder(job)
    while True:
        folder.mkdir(mode=0o700, exist_ok=True)
        with suppress(FileNotFoundError):  # another process has just removed it
            held = os.open(folder, os.O_RDONLY)
            fcntl.flock(held, fcntl.LOCK_SH)
            if os.path.samestat(os.fstat(held), folder.stat()):
                return folder


def remove_folder(job: str) -> None:
    """Removes the folder of a job that has ended."""
    shutil.rmtree(_folder(job), ignore_errors=True)


def remove_left_folders() -> None:
    """Removes the folders that no process holds: those of jobs that were killed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with suppress(OSError):  # another process holds it, or removes it too
            left = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(left, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder)
            finally:
                os.close(left)


def _folder(job: str) -> Path:
    return Path(tempfile.gettempdir()) / f"{PREFIX}{job}"
