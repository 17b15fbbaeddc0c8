"""How long a training will take and how much memory it needs, reckoned from a few timed steps."""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import psutil
import torch
from datasets import Dataset
from transformers import TrainerCallback

from llava_dvc.checks.check import Check
from llava_dvc.config import Config
from llava_dvc.dataset import load_split
from llava_dvc.errors import UserError
from llava_dvc.model.encoder import Encoder
from llava_dvc.tracking.system_metrics import process_usage
from llava_dvc.training.augment import augmented_rows
from llava_dvc.training.checkpoints import StopOnSignal
from llava_dvc.training.count_trainer import CountTrainer
from llava_dvc.training.tile_rows import with_tiles

STEPS = 8
"""Steps to time. The first TO_WARM are slower: they fill caches and compile."""
TO_WARM = 3
VAL_FRAMES = 16


@dataclass(frozen=True)
class TrainingLength:
    """The amount of work in a training."""

    steps: int
    validations: int
    val_frames: int


@dataclass(frozen=True)
class TimedSteps:
    """What a few steps took, in seconds."""

    start: float
    """From the start of the process to the first step."""
    steps: list[float]
    validation: float
    """Of one frame."""

    @property
    def step(self) -> float:
        """Of a warm step."""
        return fmean(self.steps[TO_WARM:])

    @property
    def beginning(self) -> float:
        """What the start and the first steps take beyond the time of as many warm steps. On a GPU
        layers are compiled in it. A training takes less if it finds them compiled on disk.
        """
        return self.start + sum(self.steps[:TO_WARM]) - TO_WARM * self.step


def training_length(cfg: Config, train: Dataset, val: Dataset, encoder: Encoder) -> TrainingLength:
    """The steps and validations of a training without early stopping."""
    rows = len(with_tiles(augmented_rows(train, cfg.train), encoder.tiles))
    batches = math.ceil(rows / cfg.train.batch_size)
    steps = math.ceil(batches / cfg.train.accumulation) * cfg.train.epochs
    every = cfg.train.validate_every
    between = steps // every if every else 0
    return TrainingLength(steps, cfg.train.epochs + between, len(val))


def reckoned_seconds(length: TrainingLength, timed: TimedSteps) -> float:
    """The seconds of a whole training."""
    validations = length.validations * length.val_frames * timed.validation
    return timed.beginning + max(TO_WARM, length.steps) * timed.step + validations


def rows_to_time(cfg: Config, train: Dataset) -> Dataset:
    """Enough training rows for STEPS steps, as far as there are so many."""
    needed = STEPS * cfg.train.batch_size * cfg.train.accumulation
    return train.select(range(min(len(train), needed)))


def cost_checks(cfg: Config, prepared: Path, trainer: CountTrainer) -> Iterator[Check]:
    """Yields the time and the memory of a training. Trains the adapter of `trainer` a few steps."""
    if not (prepared / "train").is_dir():
        yield Check("training time", f"not known before `dvc repro prepare` has made {prepared}/")
        return
    if cfg.train.launcher != "python":
        yield Check("training time", "not reckoned for several processes (train.launcher)")
        return
    train, val = (load_split(prepared, name) for name in ("train", "val"))
    length = training_length(cfg, train, val, trainer.encoder)
    try:
        timed = time_steps(trainer)
    except UserError as error:
        yield Check("training time", "not known", str(error))
        return
    minutes, begin = reckoned_seconds(length, timed) / 60, timed.beginning / 60
    parts = f"{length.steps} steps of {timed.step:.2f} s, {length.validations} validations"
    yield Check("training time", f"about {minutes:.1f} minutes: {begin:.1f} to begin, {parts}")
    usage = process_usage()
    gpu = usage.get("peak_gpu_memory_gib")
    on_gpu = f", {gpu:.1f} GiB of it on the GPU" if gpu else ""
    yield Check("training memory", f"about {usage['peak_memory_gib'] + (gpu or 0):.1f} GiB{on_gpu}")


def time_steps(trainer: CountTrainer) -> TimedSteps:
    """Trains STEPS steps, then validates. Writes no checkpoint, so a signal ends the process."""
    clock = StepClock()
    start = time.time() - psutil.Process().create_time()
    trainer.args.max_steps, trainer.args.save_strategy = STEPS, "no"
    trainer.args.eval_strategy = trainer.args.logging_strategy = "no"
    trainer.remove_callback(StopOnSignal)
    trainer.add_callback(clock)
    trainer.train()
    frames = trainer.spec.val["image"][:VAL_FRAMES]
    trainer.model.eval()
    began = time.perf_counter()
    trainer.count(frames)
    return TimedSteps(start, clock.seconds, (time.perf_counter() - began) / len(frames))


class StepClock(TrainerCallback):  # type: ignore[misc]
    """Notes the seconds of every step, with the loading of its batch."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._before = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()  # else a step on a GPU would only have been launched
        now = time.perf_counter()
        self.seconds.append(now - self._before)
        self._before = now
