"""Where stages write: outs moved into place whole, and local state under the repository's root."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llava_dvc import errors

WORST = "worst_frames.png"  # of plots/: it shows people, and is never published
BYTECODE = "__pycache__"  # written when code is imported; .dvcignore names it too
SPARE = 64 * 2**20  # bytes that must stay free besides DVC's own copy of an out


def state_root() -> Path:
    """The repository that keeps stores and checkpoints: in DVC's temporary workspaces, their
    parent.
    """
    return Path(os.environ.get("DVC_ROOT") or Path.cwd()).resolve()


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to fill that takes `path`'s place only when the block ends without an error."""
    with _partial(path) as partial:
        partial.mkdir()
        yield partial
        check_room(partial)
        _remove(path)
        partial.rename(path)


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """A file to write that takes `path`'s place only when the block ends without an error."""
    with _partial(path) as partial:
        yield partial
        check_room(partial)
        partial.replace(path)


@contextmanager
def _partial(path: Path) -> Iterator[Path]:
    """A free name beside `path`, on the same disk; what is left there by an error is removed, a
    full disk's room given back with it.
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


def write_json(path: Path, value: Any) -> None:
    """Readable, and the same bytes for the same value."""
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


def files_in(path: Path) -> list[Path]:
    """Every file below `path`, or `path` itself, sorted by name; without Python's bytecode."""
    if not path.is_dir():
        return [path]
    return sorted(p for p in path.rglob("*") if p.is_file() and p.parent.name != BYTECODE)


def sha256(*paths: Path) -> str:
    """One digest of files and folders: their names inside them and their bytes."""
    digest = hashlib.sha256()
    for path in paths:
        for file in files_in(path):
            digest.update(file.relative_to(path.parent).as_posix().encode())
            with file.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def file_digest(path: Path, algorithm: str) -> str:
    """Returns the hex digest of a file's bytes; `algorithm` is a name that hashlib knows."""
    with path.open("rb") as file:
        # usedforsecurity: systems in FIPS mode refuse md5 otherwise.
        digest = hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False))
    return digest.hexdigest()


def check_room(path: Path) -> None:
    """Fail before DVC copies `path` into its cache: when the disk fills during that copy, DVC goes
    on and exits 0.
    """
    size = sum(file.stat().st_size for file in files_in(path))
    for place in (path, state_root() / ".dvc" / "cache"):
        if place.exists() and (free := shutil.disk_usage(place).free) < size + SPARE:
            raise errors.disk_too_full(place, free, size + SPARE)
