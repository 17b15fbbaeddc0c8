"""Files of readings: one for each day in UTC."""

import errno
import itertools
import os
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from llava_dvc.errors import UserError
from llava_dvc.serving.watch.reading import Reading, ReadingFormat, header_line, reading_line

BLOCK = 65536


class ReadingLog:
    """Appends rows to `readings-2026-11-26.jsonl` in a folder. A row is in it whole or not at all.

    Not safe to share between threads.
    """

    def __init__(self, folder: Path, row_format: ReadingFormat) -> None:
        """Raises UserError when the folder cannot be written, or another process writes to it."""
        self._folder, self._format = folder, row_format
        self._path: Path | None = None
        self._file = -1
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(folder / ".watch.lock", blocking=False)
            self._lock.acquire()
        except Timeout:
            raise UserError(
                f"--out: another process writes to {folder}. Choose another folder."
            ) from None
        except OSError as error:
            raise UserError(
                f"--out: {folder}: cannot be written ({error.strerror}). Choose another folder."
            ) from None

    def write(self, reading: Reading) -> None:
        """Appends one row to the file of its day. Raises OSError; the file is then as before."""
        self._open(day_file(self._folder, reading.time, self._format))
        _append(self._file, reading_line(reading, self._format).encode())

    def close(self) -> None:
        self._close_file()
        self._lock.release()

    def _open(self, path: Path) -> None:
        if path == self._path:
            return
        self._close_file()
        header = header_line(self._format).encode()
        put_aside(path, header)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        self._path = path
        # The end of a row that a power failure cut off is not a row.
        os.ftruncate(self._file, whole_lines(self._file))
        if not os.fstat(self._file).st_size:
            _append(self._file, header)

    def _close_file(self) -> None:
        if self._path is not None:
            self._path = None
            os.close(self._file)


def day_file(folder: Path, time: datetime, row_format: ReadingFormat) -> Path:
    """Returns the file for a reading of that time."""
    return folder / f"readings-{time:%Y-%m-%d}.{row_format}"


def put_aside(path: Path, header: bytes) -> None:
    """Gives another name to a file that begins otherwise: an older version wrote it."""
    if header and path.exists():
        with path.open("rb") as file:
            first = file.readline()
        if first.endswith(b"\n") and first != header:
            path.rename(free_name(path))


def free_name(path: Path) -> Path:
    """Returns `readings-2026-11-26.1.csv`, or the next number that is free."""
    names = (path.with_suffix(f".{number}{path.suffix}") for number in itertools.count(1))
    return next(name for name in names if not name.exists())


def whole_lines(file: int) -> int:
    """Returns how many bytes of a file are whole lines."""
    end = os.fstat(file).st_size
    while end:
        start = max(0, end - BLOCK)
        if (found := os.pread(file, end - start, start).rfind(b"\n")) >= 0:
            return start + found + 1
        end = start
    return 0


def _append(file: int, line: bytes) -> None:
    size = os.fstat(file).st_size
    try:
        if os.write(file, line) != len(line):
            raise OSError(
                errno.ENOSPC, os.strerror(errno.ENOSPC)
            )  # a disk that is full takes a part
    except OSError:
        with suppress(OSError):
            os.ftruncate(file, size)
        raise
