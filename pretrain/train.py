"""Pretrain tiny-llava on rendered crowds: `python -m pretrain.train --out DIR --minutes M`."""

import argparse
import gc
import json
import logging
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from pretrain import augment
from pretrain.augment import Windows
from pretrain.model import SHAPES, Shape, build_model, build_processor, save_backbone
from pretrain.objective import (
    CELLS,
    Learner,
    Prompt,
    Prompts,
    answer_loss,
    density_loss,
    log_counts,
    median_count,
    tokens_at,
)
from pretrain.optim import build_optimizers
from pretrain.phrases import EVERYWHERE, PARTS, every_question
from pretrain.replay import Replay
from pretrain.stream import HEIGHT, WIDTH, FrameStream, Store
from pretrain.tokenizer import build_tokenizer

log = logging.getLogger("pretrain")


@dataclass(frozen=True)
class Settings:
    """One call of the script: `minutes` of a schedule of `schedule` minutes."""

    out: Path
    shape: str
    minutes: float
    schedule: float
    resume: Path | None
    seed: int
    processes: int
    batch: int
    learning_rate: float
    weight_decay: float
    muon: bool
    look: float
    finish: float
    width: float
    parts: float
    store: int
    validation: int
    first: int
    compiled: bool


@dataclass
class Progress:
    """The state that a stopped run needs to continue."""

    steps: int = 0
    minutes: float = 0.0
    frames: int = 0


@dataclass(frozen=True)
class Phase:
    """Phase `look` teaches the tower alone where heads are. The next teaches the answers."""

    name: str
    grid: int
    batch: int
    windows: Windows
    asked: bool


MOST_TESTED = 60

FINISH = Windows(0.9, 1.25, 0.0)
"""Mostly whole frames: windows have fewer people, and answers are biased to frequent counts."""


def phases(shape: Shape, batch: int) -> tuple[Phase, Phase]:
    """Crops have 0.7 of the grid's side and show 0.7 of the frame: people keep their size."""
    cut = round(shape.grid * 0.7)
    zoom = cut / shape.grid
    return (
        Phase("look", cut, batch * 2, Windows(0.42 * zoom, zoom * 1.05, 0.4), asked=False),
        Phase("answer", shape.grid, batch, Windows(0.42, 1.0, 0.45), asked=True),
    )


class Trainer:
    """Model, optimisers and frames of one run."""

    def __init__(self, settings: Settings):
        torch.manual_seed(settings.seed)
        self.settings, self.progress = settings, Progress()
        self.rng = random.Random(settings.seed)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.shape: Shape = SHAPES[settings.shape]
        self.tokenizer = build_tokenizer()
        self.prompts = Prompts(self.tokenizer, self.shape.patches, every_question())
        model = build_model(self.shape, self.tokenizer)
        self.learner = Learner(model, self.prompts.before_image).to(self.device)
        self.answers = self.prompts.digits.to(self.device), int(self.tokenizer.eos_token_id)
        self.rate = torch.zeros((), device=self.device)
        self.optimizers = build_optimizers(
            self.learner, self.rate, settings.weight_decay, settings.muon
        )
        self.train_store = Store(settings.store, self.device)
        self.validation = Store(settings.validation, self.device)
        self.asked = self._every_prompt()

    def _every_prompt(self) -> list[tuple[Tensor, list[Prompt]]]:
        """Returns corners and prompts per region, the whole picture first, on the device."""
        regions = []
        for region in (EVERYWHERE, *PARTS):
            built = [self.prompts.build(q, self.rng) for q in region.questions for _ in range(2)]
            corners = torch.tensor([[region.left, region.top], [region.right, region.bottom]])
            regions.append((corners.to(self.device), [p.to(self.device) for p in built]))
        return regions

    def autocast(self) -> torch.autocast:
        # No cache of cast weights: a CUDA graph would replay the cached weights of its first step.
        on_cuda = self.device.type == "cuda"
        return torch.autocast(self.device.type, torch.bfloat16, on_cuda, cache_enabled=False)

    @property
    def done(self) -> float:
        """Returns the share of the whole schedule that has passed."""
        return self.progress.minutes / self.settings.schedule

    def save(self) -> None:
        """Writes a plain checkpoint, and the state that a later call needs."""
        out = self.settings.out
        out.mkdir(parents=True, exist_ok=True)
        state = {
            "learner": self.learner.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "progress": asdict(self.progress),
        }
        torch.save(state, out / "state.pt")
        model = build_model(self.shape, self.tokenizer)
        model.load_state_dict(self.learner.llava.state_dict())
        save_backbone(model, build_processor(self.shape, self.tokenizer), out / "backbone")

    def restore(self, folder: Path) -> None:
        state = torch.load(folder / "state.pt", map_location=self.device, weights_only=True)
        self.learner.load_state_dict(state["learner"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
            for group in optimizer.param_groups:
                group["lr"] = self.rate
        self.progress = Progress(**state["progress"])


class Stepper:
    """A training step of one phase: frames from the store, loss, gradients, update."""

    def __init__(self, trainer: Trainer, phase: Phase):
        self.trainer, self.phase = trainer, phase
        self.at = torch.zeros(phase.grid**2 + 1, dtype=torch.long, device=trainer.device)
        corners, prompts = trainer.asked[0]
        self.corners, self.prompt = corners.clone(), prompts[0].to(trainer.device)
        self.prompt = Prompt(*(t.clone() for t in vars(self.prompt).values()))
        self.windows = phase.windows.tensor(trainer.device)
        self.last_windows = FINISH.tensor(trainer.device)
        self.pictures = self._pictures
        if trainer.settings.compiled:
            self.pictures = torch.compile(self._pictures, dynamic=False)
        self._choose()
        self.replay = Replay(self._step, trainer.device)

    def __call__(self) -> Tensor:
        """Runs a step; returns its losses (answer, density)."""
        self._choose()
        return self.replay()

    def _choose(self) -> None:
        """Chooses grid places, a region and a question for the next step."""
        trainer, rng = self.trainer, self.trainer.rng
        free = trainer.shape.grid - self.phase.grid
        at = tokens_at(
            trainer.shape.grid, self.phase.grid, rng.randint(0, free), rng.randint(0, free)
        )
        self.at.copy_(at)
        finishing = self.phase.asked and trainer.done > 1 - trainer.settings.finish
        if finishing:
            self.windows.copy_(self.last_windows)
        part = not finishing and rng.random() < trainer.settings.parts
        corners, prompts = rng.choice(trainer.asked[1:]) if part else trainer.asked[0]
        self.corners.copy_(corners)
        self.prompt.copy_(rng.choice(prompts))

    @torch.no_grad()
    def _pictures(self, images: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns pixels, people per cell, and people in the chosen region."""
        phase, shape = self.phase, self.trainer.shape
        view = augment.random_view(len(images), WIDTH, HEIGHT, self.windows)
        pixels, inside = augment.resample(images, view, phase.grid * shape.patch)
        pixels = augment.normalise(augment.jitter(augment.restyle(pixels)), inside)
        places, counted = augment.place_heads(rows[..., :2], rows[..., 2] > 0, view)
        cells = augment.heads_per_cell(places, counted, phase.grid, CELLS)
        return pixels, cells, augment.places_in(self.corners, places, counted)

    def _step(self) -> Tensor:
        trainer = self.trainer
        images, rows = trainer.train_store.sample(self.phase.batch)
        pixels, cells, counts = self.pictures(images, rows)
        with trainer.autocast():
            patches = trainer.learner.features(pixels, self.at)
            raw = trainer.learner.look(patches)
        density = density_loss(raw, cells)
        answer = self._answer(patches, counts) if self.phase.asked else density * 0
        self._update(answer + density)
        return torch.stack([answer.detach(), density.detach()])

    def _answer(self, patches: Tensor, counts: Tensor) -> Tensor:
        trainer = self.trainer
        with trainer.autocast():
            logits = trainer.learner.answer(patches, self.prompt)
        return answer_loss(logits, counts, trainer.settings.width, trainer.answers)

    def _update(self, loss: Tensor) -> None:
        for parameter in self.trainer.learner.parameters():
            parameter.grad = None
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.trainer.learner.parameters(), 1.0)
        for optimizer in self.trainer.optimizers:
            optimizer.step()


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
