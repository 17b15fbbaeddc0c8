"""Locks for files that several stages and commands share, with a limit to the wait."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

from llava_dvc.errors import UserError

LOCK_TIMEOUT = 60.0  # seconds; to create MLflow's store takes ten, on a busy machine thirty


@contextmanager
def state_lock(path: Path) -> Iterator[None]:
    """Holds the lock file `path`. Raises UserError if another process holds it for LOCK_TIMEOUT."""
    lock = FileLock(path)
    try:
        lock.acquire(timeout=LOCK_TIMEOUT)
    except Timeout:
        raise UserError(
            f"{path}: is held by {describe_users(path)} and was not released in "
            f"{LOCK_TIMEOUT:g} s; continue that process with `fg`, or end it"
        ) from None
    try:
        yield
    finally:
        lock.release()


def describe_users(path: Path) -> str:
    """The processes that have `path` open, as words: "process 123 (stopped)"."""
    users = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):  # it has ended, or belongs to another user
            if any(file.path == str(path) for file in process.open_files()):
                users.append(f"process {process.pid} ({process.status()})")
    return " and ".join(users) or "another process"
