"""Runs a stage's `main` and ends its process: with the parent `dvc`, or with a one-line error."""

import ctypes
import errno
import os
import shutil
import signal
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

from llava_dvc.errors import UserError

PR_SET_PDEATHSIG = 1  # linux/prctl.h
MIN_FREE = 2**20  # bytes; with less free than that, a failed write is put down to a full disk


def end_with_parent() -> None:
    """Makes the kernel send SIGTERM to this process when the `dvc` that started it has ended.

    Otherwise a stage would outlive a killed `dvc`, and the next `dvc repro` would start a second
    one. Linux only; on other systems the lock in `checkpoint_folder` keeps two trainings apart.
    """
    if sys.platform == "linux" and "DVC_STAGE" in os.environ:
        parent = os.getppid()
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # the parent ended before the call
            os.kill(os.getpid(), signal.SIGTERM)


def full_disk_folder(error: BaseException) -> Path | None:
    """The folder on a full disk that caused `error`; None if no disk is full.

    Libraries wrap the system's error in their own. PyTorch drops it, so the free space is read too.
    """
    folders = (Path.cwd(), Path(os.environ.get("DVC_ROOT", ".")), Path(tempfile.gettempdir()))
    free, fullest = min((shutil.disk_usage(folder).free, folder.resolve()) for folder in folders)
    cause: BaseException | None = error
    while cause:
        if getattr(cause, "errno", None) == errno.ENOSPC or "No space left" in str(cause):
            return fullest
        cause = cause.__cause__ or cause.__context__
    return fullest if free < MIN_FREE else None


def run_stage(main: Callable[..., None]) -> None:
    """Calls `main(cfg, *paths)` with the paths of the command line.

    A UserError, Ctrl-C and a full disk end the process with one message and exit code 1.
    """
    from llava_dvc.config import load_config  # after end_with_parent: pydantic takes time to import

    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    try:
        main(load_config(), *map(Path, sys.argv[1:]))
    except UserError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("error: interrupted. Run `dvc repro` to continue.")
    except Exception as error:
        if folder := full_disk_folder(error):
            sys.exit(
                f"error: {folder}: the disk is full; free some space and run `dvc repro` again"
            )
        raise
