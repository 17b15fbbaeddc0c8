"""Writes and reads `prepared/`: a Hugging Face DatasetDict of frames with their conversations.

The files are those of `DatasetDict.save_to_disk`, written a batch at a time. Memory does not grow
with the number of frames, and there is no second copy on disk.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from datasets import Dataset, DatasetInfo, Features, Image, List, Value, load_from_disk

from llava_dvc import errors
from llava_dvc.files import file_digest, write_json

CONTENT = List({"type": Value("string"), "text": Value("string")})
FEATURES = Features(
    {
        "frame": Value("string"),
        "image": Image(mode="RGB"),  # upright by its EXIF tag, like images.decode_image
        "count": Value("int64"),
        "camera": Value("string"),
        "points": List({"x": Value("float32"), "y": Value("float32")}),  # pixels; None: unknown
        "messages": List({"role": Value("string"), "content": CONTENT}),
    }
)
SHARD = 500_000_000  # largest size of a file in bytes
SUFFIX = ".arrow"
"""Of the files with the rows. Their digest is in the `state.json` beside them."""
FRAMING = 64 * 2**10  # upper bound of what a batch takes in a file beside its values
BATCH_ROWS, BATCH_BYTES = 100, 16_000_000

Row = dict[str, Any]


def load_split(prepared: Path, name: str) -> Dataset:
    """The rows of a split, mapped into memory. Raises UserError when prepared/ is not there."""
    try:
        return load_from_disk(str(prepared / name))
    except FileNotFoundError:
        raise errors.not_found(prepared / name) from None


def write_splits(folder: Path, splits: Mapping[str, Iterable[Row]]) -> None:
    """Writes all splits into `folder`. The same rows give the same bytes."""
    write_json(folder / "dataset_dict.json", {"splits": list(splits)})
    for name, rows in splits.items():
        write_split(folder / name, rows)


def write_split(folder: Path, rows: Iterable[Row], limit: int = SHARD) -> None:
    """Writes rows that have FEATURES, with the image as its file's bytes.

    A file has at most `limit` bytes, unless one batch alone is larger.
    """
    folder.mkdir()
    shards = _Shards(folder, limit)
    for batch in _batches(rows):
        shards.write(batch)
    digest = hashlib.sha256()
    names = []
    for place, path in enumerate(shards.close()):
        digest.update(bytes.fromhex(file_digest(path)))
        names.append(f"data-{place:05}-of-{len(shards.paths):05}{SUFFIX}")
        path.rename(folder / names[-1])
    DatasetInfo(features=FEATURES).write_to_directory(str(folder))
    write_json(folder / "state.json", _state(names, digest.hexdigest()[:16]))


def _batches(rows: Iterable[Row]) -> Iterator[pa.RecordBatch]:
    waiting: list[Row] = []
    size = 0
    for row in rows:
        waiting.append(row)
        size += len(row["image"]["bytes"])
        if len(waiting) == BATCH_ROWS or size >= BATCH_BYTES:
            yield pa.RecordBatch.from_pylist(waiting, schema=FEATURES.arrow_schema)
            waiting, size = [], 0
    if waiting:
        yield pa.RecordBatch.from_pylist(waiting, schema=FEATURES.arrow_schema)


class _Shards:
    """Arrow files of at most `limit` bytes, opened when needed. There is at least one."""

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder, limit
        self.paths: list[Path] = []
        self._open()

    def _open(self) -> None:
        self.paths.append(self.folder / f"{len(self.paths)}{SUFFIX}")
        self._file = pa.OSFile(str(self.paths[-1]), "wb")
        self._stream = pa.ipc.new_stream(self._file, FEATURES.arrow_schema)
        self._start = self._file.tell()

    def write(self, batch: pa.RecordBatch) -> None:
        begun = self._file.tell()
        if begun > self._start and begun + batch.nbytes + FRAMING > self.limit:
            self.close()
            self._open()
        self._stream.write_batch(batch)

    def close(self) -> list[Path]:
        self._stream.close()
        self._file.close()
        return self.paths


def _state(names: Sequence[str], digest: str) -> dict[str, Any]:
    """The state that load_from_disk reads. The fingerprint is the digest of the contents."""
    return {
        "_data_files": [{"filename": name} for name in names],
        "_fingerprint": digest,
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": None,
    }
