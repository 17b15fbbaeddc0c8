"""The folder of a counted archive.

    counts/camera=hall/day=2026-11-26/BLOCK.parquet   the counts, one row a frame
    failed.parquet                                    files that could not be read, with the reason
    blocks/BLOCK.json                                 written last: this block is finished

A block without its last file is counted again, and its other files are replaced. BLOCK.json has
the `files` that gave a count, the rows of failed.parquet that these gave (`failed`), and those of
the other files (`again`), which the next command tries again.
"""

import json
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from llava_dvc.archive.blocks import Block
from llava_dvc.archive.reading import Row
from llava_dvc.errors import UserError
from llava_dvc.files import read_json

NO_DAY = "unknown"
"""Not the name that stands for null: pyarrow cannot read a folder in which every day is null."""
COUNTS = pa.schema(
    [
        ("frame", pa.string()),
        ("time", pa.timestamp("ms")),
        ("count", pa.int32()),
        ("low", pa.int32()),
        ("high", pa.int32()),
        ("probabilities", pa.list_(pa.float64())),
    ]
)
FAILED = pa.schema([("camera", pa.string()), ("frame", pa.string()), ("error", pa.string())])


class ResultFolder:
    """The folder, held by this process until `close`."""

    def __init__(self, folder: Path, made_by: dict[str, Any]) -> None:
        """`made_by` is what decides the counts. Raises UserError when another process writes there,
        or when other counts are there.
        """
        self._folder, self._blocks = folder, folder / "blocks"
        try:
            self._blocks.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(folder / ".lock", blocking=False)
            self._lock.acquire()
        except Timeout:
            raise UserError(
                f"--out: another command writes to {folder}. Wait for it, or choose another folder."
            ) from None
        except OSError as error:
            raise UserError(
                f"--out: {folder} cannot be written ({error.strerror}). Choose another folder."
            ) from None
        try:
            self._require_same(made_by)
        except UserError:
            self.close()
            raise
        self._remove_unfinished()

    def close(self) -> None:
        self._lock.release()

    def finished_files(self) -> set[str]:
        """The paths of all files that gave a count."""
        return {name for path in self._blocks.glob("*.json") for name in read_json(path)["files"]}

    def forget_failures(self, blocks: Iterable[Block]) -> int:
        """Forgets why files of `blocks` could not be read, and returns how many these are."""
        paths = self._blocks.glob("*.json")
        found = {path: block for path in paths if (block := read_json(path))["again"]}
        failed = {row["file"] for block in found.values() for row in block["again"]}
        tried = {file.path for block in blocks for file in block.files if file.path in failed}
        for path, block in found.items():
            kept = [row for row in block["again"] if row["file"] not in tried]
            _write_json(path, block | {"again": kept})
        return len(tried)

    def seal(self, block: Block, rows: Sequence[Row]) -> None:
        """Writes the rows of a block: they have a `count`, or an `error`."""
        days = defaultdict(list)
        for row in rows:
            if row["error"] is None:
                days[row["day"]].append(row)
        for day, counted in days.items():
            part = f"camera={quote(block.files[0].camera, safe='')}/day={day or NO_DAY}"
            path = self._folder / "counts" / part / f"{block.key}.parquet"
            _write_table(path, pa.Table.from_pylist(counted, COUNTS))
        _write_json(self._blocks / f"{block.key}.json", _finished(rows))

    def write_failed(self) -> int:
        """Writes failed.parquet for all finished blocks, and returns its number of rows."""
        blocks = [read_json(path) for path in self._blocks.glob("*.json")]
        found = [row for block in blocks for row in (*block["failed"], *block["again"])]
        found.sort(key=lambda row: row["frame"])
        _write_table(self._folder / "failed.parquet", pa.Table.from_pylist(found, FAILED))
        return len(found)

    def _require_same(self, made_by: dict[str, Any]) -> None:
        path = self._folder / "job.json"
        if not path.exists():
            _write_json(path, made_by)
        before = read_json(path)
        for name, value in made_by.items():
            if before.get(name) != value:
                raise UserError(
                    f"--out: {self._folder} has counts with {name} {before.get(name)}, not {value}."
                    " Choose another folder."
                )

    def _remove_unfinished(self) -> None:
        """Removes what blocks without their last file left: other blocks may count their frames."""
        finished = {path.stem for path in self._blocks.glob("*.json")}
        for path in (self._folder / "counts").rglob("*.parquet*"):
            if path.name.endswith(".partial") or path.stem not in finished:
                path.unlink()


def _finished(rows: Sequence[Row]) -> dict[str, list[Any]]:
    """Returns what BLOCK.json has. A video that breaks off gave counts, and then an error."""
    files = dict.fromkeys(row["file"] for row in rows if row["error"] is None)
    found: dict[str, list[Any]] = {"files": list(files), "failed": [], "again": []}
    for row in rows:
        if row["error"]:
            name = "failed" if row["file"] in files else "again"
            found[name].append({column: row[column] for column in ("file", *FAILED.names)})
    return found


def _write_json(path: Path, value: dict[str, Any]) -> None:
    _replace(path, lambda new: new.write_text(json.dumps(value)))


def _write_table(path: Path, table: pa.Table) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    _replace(path, lambda new: pq.write_table(table, new))


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    """Writes a file whole, on the disk, or not at all."""
    partial = path.with_name(f"{path.name}.partial")
    write(partial)
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    partial.replace(path)
