"""A training step of pretraining."""

import torch
from torch import Tensor, nn

from pretrain import augment
from pretrain.augment import Windows
from pretrain.objective import CELLS, Prompt, answer_loss, density_loss, tokens_at
from pretrain.replay import Replay
from pretrain.stream import HEIGHT, WIDTH
from pretrain.trainer import Phase, Trainer

FINISH = Windows(0.9, 1.25, 0.0)
"""Mostly whole frames: windows have fewer people, and answers are biased to frequent counts."""


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
