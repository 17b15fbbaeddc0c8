"""Reads the frames of a block. Workers that do nothing else load no PyTorch."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
from fsspec.implementations.local import LocalFileSystem

from llava_dvc.archive.blocks import ArchiveFile, Block
from llava_dvc.data.zones import paint_outside
from llava_dvc.errors import UserError, one_line
from llava_dvc.recipe import Zones
from llava_dvc.serving.sources import SourceFrame, read_source
from llava_dvc.serving.video.sampling import recording_start

Row = dict[str, Any]

HEAD = [
    ("block", pa.string()),
    ("place", pa.int64()),
    ("camera", pa.string()),
    ("file", pa.string()),
    ("frame", pa.string()),
    ("day", pa.date32()),
    ("time", pa.timestamp("ms")),
    ("error", pa.string()),
]
"""Of every row. `file` is a path or an address, and `frame` names a frame in it. The last row of a
block has neither; its `place` is the number of rows before it.
"""
READ = pa.schema([*HEAD, ("width", pa.int32()), ("rgb", pa.binary())])


def read_block(block: Block, every: float, zones: Zones | None) -> Iterator[pa.Table]:
    """Yields tables of one row for each frame and each error of a block, then its last row.

    `every` is the time in seconds between two frames of a video. What is outside of the camera's
    zone is painted over.
    """
    place = 0
    for file in block.files:
        for row in _read_file(file, every, zones):
            yield _row(block, place, row | {"file": file.path})
            place += 1
    yield _row(block, place, {})


@contextmanager
def local_file(address: str) -> Iterator[Path]:
    """The path of a file, or of a copy that is deleted after the block. Raises UserError."""
    system, path = fsspec.url_to_fs(address)
    if isinstance(system, LocalFileSystem):
        yield Path(path)
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / Path(path).name
        try:
            system.get_file(path, str(copy))
        except Exception as error:  # each of fsspec's file systems raises errors of its own
            raise UserError(f"{address}: cannot be read ({one_line(repr(error))})") from None
        yield copy


def _read_file(file: ArchiveFile, every: float, zones: Zones | None) -> Iterator[Row]:
    """Yields the columns of each frame, or of each error."""
    try:
        with local_file(file.path) as path:
            start = recording_start(path) if file.is_video else None
            time = start.replace(tzinfo=None) if start else file.time
            for part in read_source(path, every):
                if isinstance(part, SourceFrame):
                    name = file.path + part.name.removeprefix(str(path))
                    yield {"frame": name} | _times(file, time, part) | _pixels(file, part, zones)
                elif isinstance(part, UserError):
                    raise UserError(str(part).replace(str(path), file.path))
    except UserError as error:
        yield {"frame": file.path, "error": str(error)}


def _pixels(file: ArchiveFile, part: SourceFrame, zones: Zones | None) -> Row:
    image = part.image
    try:
        if zones:
            image = paint_outside(image, zones.polygon(camera=file.camera), zones.name)
    except UserError as error:
        return {"error": str(error)}
    return {"width": image.width, "rgb": image.tobytes()}


def _times(file: ArchiveFile, start: datetime | None, part: SourceFrame) -> Row:
    time = start and start + timedelta(seconds=part.seconds or 0)
    return {"time": time, "day": time.date() if time else file.day}


def _row(block: Block, place: int, row: Row) -> pa.Table:
    head = {"block": block.key, "place": place, "camera": block.files[0].camera}
    return pa.Table.from_pylist([head | row], READ)
