"""TensorBoard's event file of one run: each point once, and on the disk as soon as it is drawn, so
that a killed stage leaves no gap.
"""

import os
import socket
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter


class Board:
    """Writes to `folder`, from the first point on; never raises."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file: RecordWriter | None = None
        self._lost = False
        self._last: dict[str, int] = {}  # step of every curve

    def points(self, values: Mapping[str, float], step: int) -> None:
        """A point of each curve; those that an earlier leg of the run drew are left out."""
        self._open()
        new = {tag: v for tag, v in values.items() if step > self._last.get(tag, -1)}
        self._last |= dict.fromkeys(new, step)
        self._write([Summary.Value(tag=tag, simple_value=v) for tag, v in new.items()], step)

    def picture(self, tag: str, png: bytes, width: int, height: int) -> None:
        self._open()
        image = Summary.Image(encoded_image_string=png, width=width, height=height, colorspace=3)
        self._write([Summary.Value(tag=tag, image=image)], 0)

    def close(self) -> None:
        if self._file:
            with suppress(OSError):  # what could not be written before
                self._file.close()

    def _open(self) -> None:
        if self._file or self._lost:
            return
        name = f"events.out.tfevents.{int(time.time()):010}.{socket.gethostname()}.{os.getpid()}"
        try:
            self._last = _last_steps(self._folder)
            self._folder.mkdir(parents=True, exist_ok=True)
            self._file = RecordWriter((self._folder / name).open("ab"))
        except OSError as error:
            self._give_up(error)
        self._record(file_version="brain.Event:2")

    def _write(self, values: list[Any], step: int) -> None:
        if values:
            self._record(step=step, summary=Summary(value=values))

    def _record(self, **content: Any) -> None:
        if self._file and not self._lost:
            try:
                self._file.write(Event(wall_time=time.time(), **content).SerializeToString())
                self._file.flush()
            except OSError as error:
                self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        self._lost = True
        sys.stderr.write(f"tensorboard: {self._folder}: {error.strerror}; the stage goes on\n")


def _last_steps(folder: Path) -> dict[str, int]:
    """The last step of each curve in `folder`; empty when there is none."""
    if not folder.is_dir():
        return {}
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(folder)).Reload()
    return {tag: board.Scalars(tag)[-1].step for tag in board.Tags()["scalars"]}
