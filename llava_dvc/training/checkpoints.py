"""Checkpoints that a killed training resumes from: complete, and of the same training."""

import contextlib
import hashlib
import json
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from accelerate import PartialState
from filelock import FileLock, Timeout
from transformers import TrainerCallback

from llava_dvc import config, errors
from llava_dvc.dataset import SUFFIX
from llava_dvc.files import files_in, sha256, state_root
from llava_dvc.pipeline_file import declared_paths, declared_stages
from llava_dvc.recipe import versions

MANIFEST = "manifest.json"
PATIENCE = 60  # seconds to wait for a stopping training to write its checkpoint


class SealCheckpoint(TrainerCallback):
    """Writes a manifest last. Nothing else marks a Trainer checkpoint as complete.

    A checkpoint at an epoch's last step waits for the evaluation there. A training resumed from it
    would leave the evaluation out.
    """

    def __init__(self) -> None:
        self._due = False

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if control.should_save and _ends_epoch(state):
            control.should_save, self._due = False, True

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        control.should_save, self._due = control.should_save or self._due, False

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        PartialState().wait_for_everyone()  # each writes its random state
        if not state.is_world_process_zero:
            return
        seal(Path(args.output_dir) / f"checkpoint-{state.global_step}")


class StopOnSignal(TrainerCallback):
    """On SIGTERM and Ctrl-C: finishes the step, writes a checkpoint, exits with the signal's code.

    For one process only. Several processes would stop at different steps and wait for each other
    forever. They end at once, and resume from the last checkpoint of `train.save_every`.
    """

    signals = (signal.SIGTERM, signal.SIGINT)

    def __init__(self) -> None:
        self.caught: int | None = None
        self._before: dict[int, Any] = {}

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        if PartialState().num_processes == 1:
            self._before = {number: signal.signal(number, self._catch) for number in self.signals}

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.caught:
            control.should_save = control.should_training_stop = True

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.caught and not _ends_epoch(state):  # the Trainer treats any stop as the epoch's end
            control.should_evaluate = False

    def on_train_end(self, *_: Any, **__: Any) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self.caught:
            sys.exit(128 + self.caught)

    def _catch(self, number: int, frame: FrameType | None) -> None:
        if self.caught and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.caught = number
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 its reader may have been stopped too
        with contextlib.suppress(OSError):
            sys.stderr.write(errors.stopping(signal.Signals(number).name))


def _ends_epoch(state: Any) -> bool:
    return float(state.epoch).is_integer()


def last_checkpoint(folder: Path) -> str | None:
    """The newest complete checkpoint. Deletes those whose files are not as their manifest says."""
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    for checkpoint in reversed(found):
        if is_complete(checkpoint):
            return str(checkpoint)
        sys.stderr.write(errors.checkpoint_deleted(checkpoint))
        shutil.rmtree(checkpoint)
    return None


def seal(folder: Path) -> None:
    """Writes the manifest, by which `is_complete` knows the folder."""
    sizes = {str(file.relative_to(folder)): file.stat().st_size for file in files_in(folder)}
    partial = folder / f".{MANIFEST}"
    partial.write_text(json.dumps({"sizes": sizes, "sha256": sha256(*map(folder.joinpath, sizes))}))
    partial.rename(folder / MANIFEST)


def is_complete(checkpoint: Path) -> bool:
    """Whether a manifest is there and all files are as it says."""
    try:
        manifest = json.loads((checkpoint / MANIFEST).read_text())
        return bool(sha256(*map(checkpoint.joinpath, manifest["sizes"])) == manifest["sha256"])
    except (OSError, ValueError, KeyError):
        return False


def run_key(prepared: Path, cfg: config.Config) -> str:
    """Digest of everything that decides the adapter.

    That is the data, the backbone, the code and settings that dvc.yaml declares for train, and the
    package versions. The frames in `prepared` are not read: beside them are their digests.
    """
    train, data = declared_stages()["train"], declared_paths().values()
    code = [Path(dep) for dep in train["deps"] if dep not in data]  # files and folders
    backbone = Path(cfg.backbone.name)
    records = [file for file in files_in(prepared) if file.suffix != SUFFIX]
    inputs = sha256(*records, *code, *([backbone] if backbone.is_dir() else []))
    settings = cfg.model_dump(include=set(train["params"]))
    for name in ("workers", "checkpoint_to"):
        settings["train"].pop(name)
    text = json.dumps([inputs, versions(), settings], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def checkpoints_of(key: str) -> Path:
    """The folder of the training with this key."""
    return state_root() / "checkpoints" / key[:16]


@contextmanager
def checkpoint_folder(key: str) -> Iterator[Path]:
    """The checkpoint folder, locked for this training. Removed on success, kept otherwise.

    Holds the lock as long as the training runs. A killed `dvc` can leave its stage running, and the
    next `dvc repro` would start a second training beside it.
    """
    folder = checkpoints_of(key)
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        yield folder
        shutil.rmtree(folder)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Holds the folder's lock. Waits a while for another holder: it may be stopping."""
    lock, holder = FileLock(folder.with_suffix(".lock")), folder / "pid"
    try:
        lock.acquire(timeout=0)
    except Timeout:
        pid = holder.read_text() if holder.exists() else "unknown"
        sys.stderr.write(errors.waiting_for_training(folder, pid, PATIENCE))
        try:
            lock.acquire(timeout=PATIENCE)
        except Timeout:
            raise errors.training_is_running(folder, pid) from None
    try:
        folder.mkdir(exist_ok=True)  # the other training may have removed it
        holder.write_text(str(os.getpid()))
        yield
    finally:
        lock.release()
