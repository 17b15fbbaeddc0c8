"""The inputs of a stage at its start, compared with those at its end.

DVC hashes the inputs again after the command. Without this comparison, it would record an edit that
was made while the stage ran with a result that was made without the edit.
"""

import hashlib
import os
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from llava_dvc.errors import UserError, one_line
from llava_dvc.pipeline_file import declared_paths, declared_stages, stage_outs

PARAMS_FILE = "params.yaml"
SHOWN = 3  # changed inputs that the error names
States = Mapping[str, object]


@dataclass(frozen=True)
class StageInputs:
    """The deps and params that dvc.yaml declares for a stage, as they were at one moment."""

    stage: str
    declared: Mapping[str, Any]
    """The stage in dvc.yaml."""
    files: States
    settings: States

    @classmethod
    def read(cls, stage: str, declared: Mapping[str, Any]) -> "StageInputs":
        """The inputs as they are now."""
        settings = current_settings(declared.get("params", []))
        return cls(stage, declared, file_states(declared.get("deps", [])), settings)

    def require_same(self) -> None:
        """Raises UserError, with the names of the inputs that are not as they were."""
        now = StageInputs.read(self.stage, self.declared)
        changes = [f"{one_line(name)} {how}" for name, how in differences(self.files, now.files)]
        for name, how in differences(self.settings, now.settings):
            values = [reprlib.repr(states.get(name)) for states in (self.settings, now.settings)]
            ends = f" from {values[0]} to {values[1]}" if how == "has changed" else ""
            changes.append(f"{PARAMS_FILE}: {name} {how}{ends}")
        if changes:
            more = f" and {len(changes) - SHOWN} more" if len(changes) > SHOWN else ""
            raise UserError(
                f"{', '.join(changes[:SHOWN])}{more} since {self.stage} started. DVC records no "
                "result. Run `dvc repro` again."
            )


_noted: StageInputs | None = None  # of the stage in this process


def note_inputs() -> None:
    """Notes the inputs of the stage that DVC runs in this process, if none are noted.

    Must run before the stage imports its code. Outside DVC nothing is recorded, and nothing noted.
    """
    global _noted
    stage = os.environ.get("DVC_STAGE", "").rpartition(":")[2]
    declared = declared_stages().get(stage) if stage else None
    if declared and _noted is None:
        _noted = StageInputs.read(stage, declared)


@contextmanager
def unchanged_inputs() -> Iterator[None]:
    """Raises UserError if an input has changed when the block ends, also when it fails because of
    the change.
    """
    global _noted
    note_inputs()
    try:
        yield
        require_unchanged_inputs()
    except UserError:
        raise
    except Exception:
        require_unchanged_inputs()
        raise
    finally:
        _noted = None


def require_unchanged_inputs(out: Path | None = None) -> None:
    """Raises UserError if an input of this process's stage has changed since its start.

    With `out`, only if `out` is a result of the stage: it is about to be moved into its place.
    """
    if _noted and (out is None or out in map(Path, stage_outs(_noted.declared))):
        _noted.require_same()


def file_states(deps: Sequence[str]) -> dict[str, object]:
    """The states of all files in the files and folders `deps`, by path.

    Data are as large as they are: a file of data is taken as unchanged if its size, time of change
    and inode are the same. DVC relies on the same three. A file of code is compared by its bytes.
    """
    data = set(declared_paths().values())
    return {path: _file_state(path, dep not in data) for dep in deps for path in _walk(dep)}


def _walk(dep: str) -> Iterator[str]:
    """The paths of all files that DVC hashes for a dep: without bytecode, as .dvcignore says."""
    if os.path.isfile(dep):
        yield dep
    for folder, folders, names in os.walk(dep):
        folders[:] = [name for name in folders if name != "__pycache__"]
        yield from (f"{folder}/{name}" for name in names if not name.endswith(".pyc"))


def _file_state(path: str, is_code: bool) -> object:
    """None for a file that cannot be read."""
    try:
        if is_code:
            return hashlib.sha256(Path(path).read_bytes()).digest()
        status = os.stat(path)
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns, status.st_ino


def current_settings(names: Sequence[str]) -> dict[str, object]:
    """The settings of params.yaml in the sections `names`, flat. Empty if it cannot be read."""
    from llava_dvc.config import flatten  # pydantic takes time to import

    try:
        values = yaml.safe_load(Path(PARAMS_FILE).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return {}
    flat = flatten(values) if isinstance(values, dict) else {}
    return {k: v for k, v in flat.items() if any(f"{k}.".startswith(f"{n}.") for n in names)}


def differences(before: States, now: States) -> list[tuple[str, str]]:
    """The names whose states differ, sorted, each with what has happened to it."""
    gone = [(name, "is gone") for name in before.keys() - now.keys()]
    new = [(name, "is new") for name in now.keys() - before.keys()]
    kept = before.keys() & now.keys()
    changed = [(name, "has changed") for name in kept if repr(before[name]) != repr(now[name])]
    return sorted(gone + new + changed)
