"""Pretrain tiny-llava on rendered crowds: `python -m pretrain.train --out DIR --minutes M`."""

import argparse
import gc
import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from pretrain import augment
from pretrain.model import SHAPES
from pretrain.objective import Learner, Prompt, log_counts, median_count
from pretrain.stepper import Stepper
from pretrain.stream import HEIGHT, WIDTH, FrameStream
from pretrain.trainer import Phase, Settings, Trainer, phases

log = logging.getLogger("pretrain")

MOST_TESTED = 60


@torch.no_grad()
def validate(trainer: Trainer, pad: bool, batch: int = 128) -> dict[str, float]:
    """Returns errors on held-out frames of up to MOST_TESTED people, by answer and by density."""
    prompt = trainer.asked[0][1][0]
    errors = []
    for start in range(0, len(trainer.validation), batch):
        images = trainer.validation.images[start : start + batch]
        rows = trainer.validation.rows[start : start + batch]
        view = augment.whole_view(len(images), WIDTH, HEIGHT, pad, trainer.device)
        pixels = augment.normalise(*augment.resample(images, view, trainer.shape.image))
        counts = torch.stack(_read(trainer, pixels, prompt))
        people = (rows[..., 2] > 0).sum(-1)
        errors.append((counts - people)[:, people <= MOST_TESTED])
    error = torch.cat(errors, dim=1)
    mae, bias = error.abs().mean(1).tolist(), error.mean(1).tolist()
    return {"mae": mae[0], "bias": bias[0], "density_mae": mae[1], "density_bias": bias[1]}


def _read(trainer: Trainer, pixels: Tensor, prompt: Prompt) -> tuple[Tensor, Tensor]:
    """Returns the counts by answer (median) and by the sum of the density."""
    learner = trainer.learner
    with trainer.autocast():
        at = torch.arange(trainer.shape.patches + 1, device=trainer.device)
        patches = learner.features(pixels, at)
        raw, logits = learner.look(patches), learner.answer(patches, prompt)
    dense = nn.functional.softplus(raw[..., 0]).sum(1)
    return median_count(log_counts(logits, *trainer.answers)).float(), dense


def compile_layers(learner: Learner) -> None:
    """Compiles the layers. Equal layers share one graph, so this takes seconds."""
    model = learner.llava.model
    for layer in (*model.vision_tower.encoder.layers[:-1], *model.language_model.layers):
        layer.compile(dynamic=False)


def schedule(steps: int, done: float) -> float:
    """Returns the learning rate factor: short warm-up, plateau, linear decay over the last 45 %."""
    return min(1.0, (steps + 1) / 200) * min(1.0, max(0.01, (1 - done) / 0.45))


class Feed:
    """Copies finished frames to the device while a step runs."""

    def __init__(self, trainer: Trainer, stream: FrameStream):
        self.trainer, self.stream = trainer, stream
        on_cuda = trainer.device.type == "cuda"
        self._side = torch.cuda.Stream() if on_cuda else None  # type: ignore[no-untyped-call]

    def __call__(self, limit: int = 8) -> None:
        trainer = self.trainer
        with self._aside():
            for block in self.stream.blocks(limit):
                (trainer.validation if block.validation else trainer.train_store).add(block)
        trainer.train_store.publish()
        trainer.progress.frames = trainer.train_store.added

    @contextmanager
    def _aside(self) -> Iterator[None]:
        if self._side is None:
            yield
            return
        with torch.cuda.stream(self._side):
            yield
            self._side.synchronize()


def run(settings: Settings) -> dict[str, dict[str, float]]:
    """Trains for `settings.minutes`, validates, saves; returns the validation figures."""
    begun = time.monotonic()
    # Start the processes first: CUDA does not work after a fork.
    stream = FrameStream(settings.processes, settings.validation, settings.first)
    try:
        trainer = Trainer(settings)
        if settings.resume:
            trainer.restore(settings.resume)
        feed = Feed(trainer, stream)
        _wait_for_frames(trainer, feed)
        _train(trainer, feed, lambda: (time.monotonic() - begun) / 60)
    finally:
        stream.close()
    trainer.learner.eval()
    figures = {name: validate(trainer, pad) for name, pad in (("squash", False), ("pad", True))}
    trainer.save()
    (settings.out / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")
    log.info("%s after %s", figures, trainer.progress)
    return figures


def _wait_for_frames(trainer: Trainer, feed: Feed) -> None:
    while len(trainer.train_store) < min(1024, trainer.settings.store):
        feed()
        time.sleep(0.01)
    log.info("%d frames to start with", len(trainer.train_store))


def _train(trainer: Trainer, feed: Feed, elapsed: Callable[[], float]) -> None:
    """Runs both phases until the call's minutes or the schedule end."""
    if trainer.settings.compiled:
        compile_layers(trainer.learner)
    before = trainer.progress.minutes
    look, answer = phases(trainer.shape, trainer.settings.batch)

    def goes_on(until: float) -> bool:
        trainer.progress.minutes = before + elapsed()
        return trainer.done < until and elapsed() < trainer.settings.minutes

    for phase, until in ((look, trainer.settings.look), (answer, 1.0)):
        if goes_on(until):
            _run_phase(trainer, feed, phase, partial(goes_on, until))


def _run_phase(trainer: Trainer, feed: Feed, phase: Phase, goes_on: Callable[[], bool]) -> None:
    """Runs one phase. Its CUDA graph and memory are freed at the end."""
    stepper = Stepper(trainer, phase)
    log.info("%s: ready at %.2f min", phase.name, trainer.progress.minutes)
    while goes_on():
        feed()
        _advance(trainer, stepper)
    if trainer.device.type == "cuda":
        del stepper
        gc.collect()
        torch.cuda.empty_cache()


def _advance(trainer: Trainer, stepper: Stepper) -> None:
    rate = schedule(trainer.progress.steps, trainer.done)
    trainer.rate.fill_(trainer.settings.learning_rate * rate)
    losses = stepper()
    trainer.progress.steps += 1
    if trainer.progress.steps % 200 == 0:
        _report(trainer, losses)


def _report(trainer: Trainer, losses: Tensor) -> None:
    answer, density = losses.tolist()
    figures = validate(trainer, pad=False) if trainer.progress.steps % 2000 == 0 else {}
    log.info(
        "step %d, %.2f min, %d frames: answer %.3f, density %.3f %s",
        trainer.progress.steps,
        trainer.progress.minutes,
        trainer.progress.frames,
        answer,
        density,
        figures,
    )


def _parse() -> Settings:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--shape", choices=SHAPES, default="eighth")
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--schedule", type=float, help="minutes of all calls together")
    parser.add_argument("--resume", type=Path, help="the --out folder of an earlier call")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=16)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--weight-decay", type=float, default=0.05)
    parser.add_argument("--muon", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--look", type=float, default=0.5, help="share of time for the tower alone")
    parser.add_argument("--finish", type=float, default=0.2, help="share of time on whole frames")
    parser.add_argument("--width", type=float, default=0.03, help="bell width per person")
    parser.add_argument("--parts", type=float, default=0.2, help="share of questions on parts")
    parser.add_argument("--store", type=int, default=75_000, help="frames kept on the device")
    parser.add_argument("--validation", type=int, default=1024)
    parser.add_argument("--first", type=int, default=1_000_000, help="first training seed")
    parser.add_argument("--compiled", action="store_true")
    arguments = vars(parser.parse_args())
    arguments["schedule"] = arguments["schedule"] or arguments["minutes"]
    return Settings(**arguments)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_float32_matmul_precision("high")
    run(_parse())
