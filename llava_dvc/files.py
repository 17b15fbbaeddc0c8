"""Atomic writes of stage outputs, digests of files, and the place of local state."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llava_dvc import errors
from llava_dvc.stage_inputs import require_unchanged_inputs

WORST = "worst_frames.png"  # in plots/. It shows people and is never published.
BYTECODE = "__pycache__"  # written when code is imported; .dvcignore names it too
SPARE = 64 * 2**20  # bytes that must stay free beside DVC's copy of an output


def state_root() -> Path:
    """The folder of the MLflow store, TensorBoard's runs and the checkpoints. Inside a temporary
    workspace of DVC this is the original repository.
    """
    return Path(os.environ.get("DVC_ROOT") or Path.cwd()).resolve()


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yields an empty folder to fill. It replaces `path` if the block raises no error."""
    with _partial(path) as partial:
        partial.mkdir()
        yield partial
        check_room(partial)
        require_unchanged_inputs(path)
        _remove(path)
        partial.rename(path)


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Yields the path of a file to write. It replaces `path` if the block raises no error."""
    with _partial(path) as partial:
        yield partial
        check_room(partial)
        require_unchanged_inputs(path)
        partial.replace(path)


@contextmanager
def _partial(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, on the same disk. It is always removed at the end: a failed
    write frees its space.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    _remove(partial)
    try:
        yield partial
    finally:
        _remove(partial)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def csv_name(name: str) -> str:
    """A file's name for a CSV file: spreadsheets run a cell that begins with =, +, - or @."""
    return f"./{name}" if name.startswith(("=", "+", "-", "@")) else name


def write_json(path: Path, value: Any) -> None:
    """Writes readable JSON, the same bytes for the same value."""
    with new_file(path) as file:
        text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
        file.write_text(text + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Raises UserError when `path` is missing or half written."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise errors.not_found(path) from None
    except json.JSONDecodeError as error:
        raise errors.invalid_json(path, error.lineno) from None


def require_regular_files(folder: Path) -> None:
    """Raises UserError when something below `folder` is neither a file nor a folder.

    Libraries open what they find by its name, and would wait at a pipe for ever.
    """
    for path in sorted(folder.rglob("*")):
        if not path.is_file() and not path.is_dir():
            raise errors.not_regular(path)


def files_in(path: Path) -> list[Path]:
    """Every file below `path`, or `path` itself, sorted by name. Skips Python's bytecode."""
    if not path.is_dir():
        return [path]
    return sorted(p for p in path.rglob("*") if p.is_file() and p.parent.name != BYTECODE)


def sha256(*paths: Path) -> str:
    """One hex digest over the relative names and the bytes of all files in `paths`."""
    digest = hashlib.sha256()
    for path in paths:
        for file in files_in(path):
            digest.update(file.relative_to(path.parent).as_posix().encode())
            digest.update(bytes.fromhex(file_digest(file)))
    return digest.hexdigest()


def file_digest(path: Path, algorithm: str = "sha256") -> str:
    """The hex digest of a file's bytes. `algorithm` is a name that hashlib knows."""
    with path.open("rb") as file:
        # In FIPS mode md5 is allowed only with usedforsecurity=False.
        digest = hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False))
    return digest.hexdigest()


def check_room(path: Path) -> None:
    """Raises UserError when the disk has not enough free space for DVC's copy of `path`.

    If the disk fills during that copy, DVC goes on and exits 0.
    """
    size = sum(file.stat().st_size for file in files_in(path))
    for place in (path, state_root() / ".dvc" / "cache"):
        if place.exists() and (free := shutil.disk_usage(place).free) < size + SPARE:
            raise errors.disk_too_full(place, free, size + SPARE)
