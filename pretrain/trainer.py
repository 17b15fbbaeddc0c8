"""The state of a pretraining run: settings, progress, model, optimisers and frames."""

import random
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from pretrain.augment import Windows
from pretrain.model import SHAPES, Shape, build_model, build_processor, save_backbone
from pretrain.objective import Learner, Prompt, Prompts
from pretrain.optim import build_optimizers
from pretrain.phrases import EVERYWHERE, PARTS, every_question
from pretrain.stream import Store
from pretrain.tokenizer import build_tokenizer


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
