"""How a stage's process ends: with the `dvc` that started it, and on a full disk with one line."""

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
SCRAP = 2**20  # bytes; with less than that free, a failed write was for want of room


def end_with_parent() -> None:
    """Have the kernel send SIGTERM when the `dvc` that started this process is gone, killed too.

    Without it the stage would go on alone, and the next `dvc repro` start a second one beside it.
    Linux only; elsewhere the lock of `checkpoint_folder` is what keeps two trainings apart.
    """
    if sys.platform == "linux" and "DVC_STAGE" in os.environ:
        parent = os.getppid()
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it ended just before
            os.kill(os.getpid(), signal.SIGTERM)


def full_disk(error: BaseException) -> Path | None:
    """The folder on a full disk that is behind `error`, if one is.

    Libraries wrap the system's error in their own, and PyTorch drops it: then the room left tells.
    """
    folders = (Path.cwd(), Path(os.environ.get("DVC_ROOT", ".")), Path(tempfile.gettempdir()))
    free, fullest = min((shutil.disk_usage(folder).free, folder.resolve()) for folder in folders)
    cause: BaseException | None = error
    while cause:
        if getattr(cause, "errno", None) == errno.ENOSPC or "No space left" in str(cause):
            return fullest
        cause = cause.__cause__ or cause.__context__
    return fullest if free < SCRAP else None


def run_stage(main: Callable[..., None]) -> None:
    """Call a stage's `main(cfg, *paths)` with the command line's paths; a UserError, Ctrl-C and a
    full disk end it with a line alone.
    """
    from llava_dvc.config import load_config  # late: the parent is watched before pydantic loads

    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    try:
        main(load_config(), *map(Path, sys.argv[1:]))
    except UserError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("error: interrupted; `dvc repro` goes on")
    except Exception as error:
        if folder := full_disk(error):
            sys.exit(f"error: {folder}: the disk is full; make room and run `dvc repro` again")
        raise
