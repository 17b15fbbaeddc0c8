"""Ends a command or a stage with one line in place of a traceback."""

import errno
import os
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path

from llava_dvc.errors import UserError, one_line, printable_text
from llava_dvc.masking import masked

MIN_FREE = 2**20  # bytes; with less free than that, a failed write is put down to a full disk
INTERRUPTED = 130
"""The exit status of a program that Ctrl-C ended, as shells have it."""


@contextmanager
def exit_with_one_line(again: str) -> Iterator[None]:
    """Ends the process when the block raises an error or standard output cannot be written.

    `again` names in the line what the user runs again. A UserError is shown as it is. The traceback
    of any other error goes into a file that the line names. The exit status is 1, or INTERRUPTED
    after Ctrl-C. A reader that closed the pipe, as `| head` does, ends the process without a line.
    """
    _escape_output()
    caught: BaseException | None = None
    try:
        yield
    except BaseException as error:  # a panic in Rust is no Exception
        caught = error
    lost = _broken_output()
    if isinstance(lost or caught, BrokenPipeError):
        sys.exit(1)
    if caught is None or isinstance(caught, SystemExit):
        caught = lost or caught
    if isinstance(caught, SystemExit):
        raise caught
    if caught is not None:
        end_process(caught, again)


def end_process(error: BaseException, again: str) -> None:
    """Ends this process with the line of `error`, as `exit_with_one_line` does."""
    line = f"error: {error_line(error, again)}"
    if not isinstance(error, KeyboardInterrupt):
        sys.exit(line)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a second Ctrl-C ends the process at once
    sys.stderr.write(f"{line}\n")
    sys.exit(INTERRUPTED)


def error_line(error: BaseException, again: str) -> str:
    """The line of an error; several lines for a UserError that has them."""
    if isinstance(error, UserError):
        return printable_text(str(error))
    if isinstance(error, KeyboardInterrupt):
        return f"interrupted; run {again} again"
    if place := full_disk(error):
        return f"{place}: the disk is full; free some space and run {again} again"
    log = _write_traceback(error)
    if isinstance(error, OSError) and error.filename is not None:
        place, reason = one_line(str(error.filename)), error.strerror or type(error).__name__
        return f"{place}: {reason}; correct this and run {again} again (traceback: {log})"
    text = f"{type(error).__name__}: {one_line(str(error))}".rstrip(": ")
    return f"{text}; this is a fault of llava-dvc: report it with its traceback, {log}"


def full_disk(error: BaseException) -> str | None:
    """The place without room that caused `error`; None if no disk is full.

    Libraries wrap the system's error in their own. PyTorch drops it, so the free space is read too.
    """
    # tempfile.gettempdir() looks for a folder that has room.
    names = os.curdir, os.environ.get("DVC_ROOT", ""), os.environ.get("TMPDIR", "/tmp")
    folders = [folder for folder in map(Path, names) if folder.exists()]
    cause: BaseException | None = error
    while cause and not _lacks_room(cause):
        cause = cause.__cause__ or cause.__context__
    # The second name is that of a copy, which is the file that is written.
    named = getattr(cause, "filename2", None) or getattr(cause, "filename", None)
    if isinstance(named, str):
        return os.path.realpath(_folder_on_disk_of(Path(named), folders))
    free, fullest = min((shutil.disk_usage(folder).free, folder) for folder in folders)
    if free < MIN_FREE or (cause and not isinstance(cause, OSError)):
        return os.path.realpath(fullest)
    # Python names the file that it cannot open, not the one that it cannot write to.
    return "standard output, or a file that the command writes" if cause else None


def _folder_on_disk_of(file: Path, folders: list[Path]) -> Path:
    """The first of `folders` on the disk of `file`, else the nearest folder of `file`."""
    nearest = next(folder for folder in file.absolute().parents if folder.exists())
    disk = nearest.stat().st_dev
    return next((one for one in folders if one.stat().st_dev == disk), nearest)


def _lacks_room(error: BaseException) -> bool:
    return getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error)


def _escape_output() -> None:
    """Makes standard output escape what it cannot encode: one odd name must not end the process.

    Ends the process if standard output is closed: files would take its place.
    """
    if sys.stdout is None:
        sys.exit("error: standard output: is closed; open it, or send it to /dev/null")
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _broken_output() -> OSError | None:
    """The error of standard output when it cannot be written any more, else None.

    It is closed then. Python would try again at its end and print a traceback.
    """
    try:
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return error
    return None


def _write_traceback(error: BaseException) -> str:
    """Writes the traceback to a new file that only this user can read; returns its path."""
    try:
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", errors="backslashreplace",
            prefix="llava-dvc-", suffix=".txt", delete=False,
        ) as file:  # fmt: skip
            file.write(masked("".join(traceback.format_exception(error))))
            return file.name
    except OSError as failed:
        return f"which could not be written ({failed.strerror})"
