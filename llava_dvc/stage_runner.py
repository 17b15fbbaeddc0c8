"""Runs a stage's `main` and ends its process: with the parent `dvc`, or with a one-line error."""

import ctypes
import os
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

from llava_dvc.errors import check_endpoint
from llava_dvc.exit_line import error_line, exit_with_one_line
from llava_dvc.masking import hide_secrets
from llava_dvc.stage_inputs import note_inputs, unchanged_inputs

PR_SET_PDEATHSIG = 1  # linux/prctl.h
AGAIN = "`dvc repro`"
"""What a user runs after a stage has failed."""


def start_stage() -> None:
    """Prepares this process for the stage that DVC runs in it. Does nothing outside DVC."""
    end_with_parent()
    show_one_line()
    note_inputs()


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


def show_one_line() -> None:
    """Shows one line for an error outside `run_stage`, such as Ctrl-C during a stage's imports."""

    def show(_: object, error: BaseException, trace: object) -> None:
        sys.stderr.write(f"error: {error_line(error, AGAIN)}\n")

    sys.excepthook = show


def run_stage(main: Callable[..., None]) -> None:
    """Calls `main(cfg, *paths)` with the paths of the command line.

    An error ends the process with one message, as `exit_with_one_line` says. So does an input that
    was edited meanwhile. DVC then records nothing.
    """
    with exit_with_one_line(AGAIN):
        from llava_dvc.config import load_config  # after end_with_parent: pydantic loads slowly

        hide_secrets()
        warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
        check_endpoint()
        with unchanged_inputs():
            main(load_config(), *map(Path, sys.argv[1:]))
