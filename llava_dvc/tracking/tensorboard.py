"""TensorBoard's event file of one run.

torch.utils.tensorboard.SummaryWriter is not used: it imports torch, which prepare and publish must
not load, and its thread prints a traceback when the disk is full.
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

from llava_dvc.errors import UserError


class EventWriter:
    """Writes scalars and images to an event file in `folder`.

    Flushes after every event, so a killed stage loses no point. Creates the file at the first
    event. Prints one line when the disk is full, and raises nothing.
    """

    def __init__(self, folder: Path, replaces: str = "") -> None:
        """`replaces` is the name of a stage whose earlier figures and images in `folder` are
        replaced; empty for a training, which continues its curves.
        """
        self._folder = folder
        self._replaces = replaces
        self._records: RecordWriter | None = None
        self._has_failed = False
        self._last_steps: dict[str, int] = {}  # of each tag

    def add_scalars(self, values: Mapping[str, float], step: int) -> None:
        """Adds one point to each tag. Skips steps that are already in the folder's event files."""
        self._create_file()
        new = {tag: v for tag, v in values.items() if step > self._last_steps.get(tag, -1)}
        self._last_steps |= dict.fromkeys(new, step)
        if new:
            points = [Summary.Value(tag=tag, simple_value=v) for tag, v in new.items()]
            self._write_event(step=step, summary=Summary(value=points))

    def add_table_row(self, settings: Mapping[str, Any], figures: Mapping[str, float]) -> None:
        """Adds a row to TensorBoard's table of hyperparameters and metrics (HParams). It takes the
        figures from scalars of one step.
        """
        from tensorboard.plugins.hparams.summary_v2 import hparams_pb  # takes a second

        self.add_scalars(figures, 0)
        plain = (bool, int, float, str)
        values = {n: v if isinstance(v, plain) else str(v) for n, v in settings.items()}
        row = hparams_pb(values, trial_id=self._folder.name)
        self._write_event(step=0, summary=Summary.FromString(row.SerializeToString()))

    def add_image(self, tag: str, png: bytes, width: int, height: int) -> None:
        """Adds a PNG; width and height are in pixels."""
        self._create_file()
        image = Summary.Image(encoded_image_string=png, width=width, height=height, colorspace=3)
        self._write_event(step=0, summary=Summary(value=[Summary.Value(tag=tag, image=image)]))

    def close(self) -> None:
        if self._records:
            with suppress(OSError):  # closing flushes again what a full disk refused
                self._records.close()

    def _create_file(self) -> None:
        if self._records or self._has_failed:
            return
        name = f"events.out.tfevents.{int(time.time()):010}.{socket.gethostname()}.{os.getpid()}"
        name += self._suffix
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            if self._replaces:
                for earlier in self._folder.glob(f"*tfevents*{self._suffix}"):
                    earlier.unlink()
            else:
                self._last_steps = read_last_steps(self._folder)
            self._records = RecordWriter((self._folder / name).open("ab"))
        except OSError as error:
            self._fail(error)
        self._write_event(file_version="brain.Event:2")

    @property
    def _suffix(self) -> str:
        return f".{self._replaces}" if self._replaces else ""

    def _write_event(self, **content: Any) -> None:
        if self._records and not self._has_failed:
            try:
                self._records.write(Event(wall_time=time.time(), **content).SerializeToString())
                self._records.flush()
            except OSError as error:
                self._fail(error)

    def _fail(self, error: OSError) -> None:
        self._has_failed = True
        warn_lost(self._folder, error)


def warn_lost(folder: Path, error: OSError | UserError) -> None:
    reason = error.strerror if isinstance(error, OSError) else error
    sys.stderr.write(f"tensorboard: {folder}: {reason}; the stage continues without it\n")


def read_last_steps(folder: Path) -> dict[str, int]:
    """The last step of each scalar tag in `folder`; empty without event files."""
    if not folder.is_dir():
        return {}
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder)).Reload()
    return {tag: events.Scalars(tag)[-1].step for tag in events.Tags()["scalars"]}
