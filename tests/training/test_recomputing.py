"""Gradient checkpointing of as many layers as needed changes memory, and no gradient."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from llava_dvc.config import Config
from llava_dvc.errors import UserError
from llava_dvc.model.backbone import load_backbone
from llava_dvc.model.encoder import Encoder
from llava_dvc.model.fp8.linear import Fp8Linear
from llava_dvc.training import recomputing
from llava_dvc.training.collator import Collator
from llava_dvc.training.count_trainer import CountTrainer, TrainingSpec, TunedAdapter, fit
from llava_dvc.training.recomputing import Plan, fewest_recomputed, plan_memory, recompute_layers
from llava_dvc.training.speed import compile_layers
from tests.model.test_model_patches import changed, loss_and_gradients, trainer_of

GIB = 2**30


@pytest.fixture(scope="module")
def batch(encoder: Encoder, rows: Dataset) -> dict:
    return Collator(encoder)([rows[0], rows[1], rows[5]])


@pytest.fixture
def trainer_for(
    cfg: Config, encoder: Encoder, rows: Dataset, tmp_path: Path
) -> Callable[..., CountTrainer]:
    packed = changed(cfg, backbone={"unpacked": False})
    return lambda **sections: trainer_of(changed(packed, **sections), encoder, rows, tmp_path)


def kept_bytes(trainer: CountTrainer, batch: dict) -> int:
    """Bytes of the activations that the loss keeps for the backward pass."""
    sizes: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        held.append(tensor)
        return tensor

    held: list[Tensor] = []
    trainer.model.train()
    with saved_tensors_hooks(note, lambda tensor: tensor):
        trainer.compute_loss(trainer.model, dict(batch))
    weights = {p.untyped_storage().data_ptr() for p in trainer.model.parameters()}
    return sum(size for place, size in sizes.items() if place not in weights)


def test_recomputed_layers_give_the_same_gradients_to_the_bit(
    trainer_for: Callable[..., CountTrainer], batch: dict
) -> None:
    trainer = trainer_for(train={"checkpointing": False})
    layers = trainer.model.get_base_model().model.language_model.layers
    found = []
    for number in range(len(layers) + 1):
        recompute_layers(trainer.model.get_base_model(), number)
        trainer.model.zero_grad(set_to_none=True)
        found.append(loss_and_gradients(trainer, batch))
    [(loss, gradients), *others] = found
    assert len(others) == 2
    for other, recomputed in others:
        assert other == loss
        assert recomputed.keys() == gradients.keys()
        assert all(torch.equal(recomputed[name], gradients[name]) for name in gradients)


@pytest.mark.parametrize(("compiled", "numbers"), [(False, 3), (True, 2)])
def test_each_recomputed_layer_keeps_less(
    compiled: bool, numbers: int, trainer_for: Callable[..., CountTrainer], batch: dict
) -> None:
    """A compiled graph is shared by layers: one that recomputes must not serve one that keeps."""
    trainer = trainer_for(adapter={"vision": False}, train={"checkpointing": False})
    model = trainer.model.get_base_model()
    if compiled:
        torch._dynamo.reset()
        compile_layers(model, backend="eager")
    kept = []
    for number in range(numbers):
        recompute_layers(model, number)
        kept.append(kept_bytes(trainer, batch))
    assert all(more > 1.05 * less for more, less in pairwise(kept)), kept


def test_a_training_says_what_it_recomputes_and_gives_the_same_adapter(
    cfg: Config,
    encoder: Encoder,
    rows: Dataset,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def train(checkpointing: object) -> TunedAdapter:
        settings = cfg.train.model_copy(update={"checkpointing": checkpointing, "augment": ()})
        folder = tmp_path / str(checkpointing)
        spec = TrainingSpec(
            rows.select(range(4)), rows.select(range(2)), cfg.adapter, settings, 3, folder
        )
        return fit(CountTrainer(load_backbone(cfg.backbone), encoder, spec))

    line = "of 2 layers are recomputed in the backward pass\n"
    plain = train(False)
    assert line not in capsys.readouterr().err
    tuned = train(1)
    assert f"train.checkpointing: 1 {line}" in capsys.readouterr().err
    assert (plain.recomputed_layers, tuned.recomputed_layers) == (0, 1)
    assert all(torch.equal(tuned.weights[name], plain.weights[name]) for name in plain.weights)
    language = tuned.model.get_base_model().model.language_model
    assert [layer.gradient_checkpointing for layer in language.layers] == [True, False]


@pytest.mark.parametrize(
    ("checkpointing", "number"), [(False, 0), (True, 2), (1, 1), (2, 2), ("auto", 0)]
)
def test_the_setting_decides_which_layers(
    checkpointing: object, number: int, trainer_for: Callable[..., CountTrainer]
) -> None:
    trainer = trainer_for(train={"checkpointing": checkpointing})
    model = trainer.model.get_base_model().model
    assert trainer.recomputed_layers == number
    flags = [layer.gradient_checkpointing for layer in model.language_model.layers]
    assert flags == [True] * number + [False] * (2 - number)
    tower = [block.gradient_checkpointing for block in model.vision_tower.encoder.layers]
    assert tower == [number == 2] * 3


def test_more_layers_than_there_are(trainer_for: Callable[..., CountTrainer]) -> None:
    with pytest.raises(UserError, match=r"train.checkpointing: is 3, but the language model has 2"):
        trainer_for(train={"checkpointing": 3})


@pytest.mark.parametrize(
    ("room", "number"),
    [(100, 0), (40, 0), (39.9, 1), (31, 1), (30.9, 2), (4, 4), (3, 4), (-5, 4)],
)
def test_the_fewest_layers_that_fit(room: float, number: int) -> None:
    """Four layers take 10 bytes each, or 1 byte."""
    assert fewest_recomputed(4, kept=10, recomputed=1, room=room) == number


@pytest.mark.parametrize(
    ("free", "compiled", "number", "copies"),
    [
        (80, True, 0, True), (36, True, 0, True), (28, True, 0, False), (17, True, 16, False),
        (17, False, 18, False), (9, True, 30, False), (3, True, 32, False),
    ],
)  # fmt: skip
def test_auto_recomputes_what_a_card_has_no_room_for(
    free: int,
    compiled: bool,
    number: int,
    copies: bool,
    cfg: Config,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The GPU and the 7B model are stand-ins: batch 8 of 605 tokens, an adapter of rank 64."""
    with torch.device("meta"):
        layers = [Fp8Linear(4096, 49408, bias=False) for _ in range(32)]
    text = SimpleNamespace(hidden_size=4096, intermediate_size=11008, num_hidden_layers=32)
    adapter = torch.nn.Parameter(torch.empty(160_000_000, device="meta"))
    model = SimpleNamespace(
        device=torch.device("cuda"),
        dtype=torch.bfloat16,
        config=SimpleNamespace(text_config=text),
        parameters=lambda: [adapter],
        modules=lambda: layers,
        model=SimpleNamespace(vision_tower=torch.nn.Identity()),
    )
    monkeypatch.setattr(recomputing, "free_bytes", lambda _: free * GIB)
    settings = changed(cfg, train={"checkpointing": "auto", "compile": compiled}).train
    spare = recomputing.RECORDING_BYTES if compiled else 0
    assert plan_memory(settings, model, 8, 605, spare) == Plan(number, copies)


@pytest.mark.parametrize("recorded", [False, True])
def test_room_is_left_for_a_recording(
    recorded: bool, trainer_for: Callable[..., CountTrainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    spares = []

    def plan(*given: object) -> Plan:
        spares.append(given[-1])
        return Plan(0, copies=False)

    monkeypatch.setattr(recomputing, "can_be_recorded", lambda *_: recorded)
    monkeypatch.setattr(recomputing, "plan_memory", plan)
    trainer_for(train={"checkpointing": "auto"})
    assert spares == [recomputing.RECORDING_BYTES if recorded else 0]


def test_a_tower_that_learns_needs_room_too(
    trainer_for: Callable[..., CountTrainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = trainer_for(train={"checkpointing": "auto"})
    model, settings = trainer.model.get_base_model(), trainer.spec.settings
    whole = recomputing.other_bytes(settings, model, 3)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(parameter.requires_grad and "vision_tower" not in name)
    learnt = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert recomputing.other_bytes(settings, model, 3) == 12 * learnt
    assert whole > 12 * learnt + 2 * 3 * 17 * (10 * 64 + 4 * 128) * 4 - 1


def test_free_memory_counts_the_cache_and_ends_at_the_cap(monkeypatch: pytest.MonkeyPatch) -> None:
    """The GPU is a stand-in."""
    figures = {
        "mem_get_info": (10 * GIB, 80 * GIB),
        "memory_allocated": 5 * GIB,
        "memory_reserved": 7 * GIB,
        "get_per_process_memory_fraction": 1.0,
    }
    for name, value in figures.items():
        monkeypatch.setattr(torch.cuda, name, lambda _, value=value: value)
    assert recomputing.free_bytes(torch.device("cuda")) == 12 * GIB
    monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", lambda _: 0.1)
    assert recomputing.free_bytes(torch.device("cuda")) == 3 * GIB
