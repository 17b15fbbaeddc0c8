"""Every way to be faster gives the plain path's loss and gradients."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes.nn import Linear4bit
from datasets import Dataset
from torch import Tensor
from transformers import LlavaForConditionalGeneration

from llava_dvc.config import Config
from llava_dvc.model import backbone
from llava_dvc.model.backbone import load_backbone
from llava_dvc.model.encoder import Encoder
from llava_dvc.model.fused_lora import fuse_lora
from llava_dvc.model.model_patches import UnpackedLinear4bit
from llava_dvc.training.collator import IGNORED, BatchShape, Collator, batch_shape
from llava_dvc.training.count_trainer import CountTrainer, TrainingSpec
from llava_dvc.training.speed import compile_layers
from tests.conftest import conversation


def changed(cfg: Config, **sections: dict) -> Config:
    values = cfg.model_dump()
    for name, section in sections.items():
        values[name] |= section
    return Config.model_validate(values)


def trainer_of(cfg: Config, encoder: Encoder, rows: Dataset, folder: Path) -> CountTrainer:
    model = load_backbone(cfg.backbone)
    trainer = CountTrainer(
        model, encoder, TrainingSpec(rows, rows, cfg.adapter, cfg.train, 3, folder)
    )
    torch.manual_seed(5)
    for name, parameter in trainer.model.named_parameters():
        if "lora_B" in name:  # else lora_A has no gradient yet
            torch.nn.init.normal_(parameter, std=0.05)
    return trainer


def loss_and_gradients(trainer: CountTrainer, batch: dict) -> tuple[float, dict[str, Tensor]]:
    trainer.model.train()
    loss = trainer.compute_loss(trainer.model, dict(batch))
    loss.backward()
    return loss.item(), {
        name: parameter.grad
        for name, parameter in trainer.model.named_parameters()
        if parameter.grad is not None
    }


@pytest.fixture(scope="module")
def plain_cfg(cfg: Config) -> Config:
    return changed(cfg, backbone={"unpacked": False}, train={"checkpointing": False})


@pytest.fixture
def batch(encoder: Encoder, rows: Dataset) -> dict:
    """Answers of one and of two digits, so that there is padding."""
    return Collator(encoder)([rows[0], rows[1], rows[5]])


@pytest.fixture
def same_as_plain(
    plain_cfg: Config, encoder: Encoder, rows: Dataset, batch: dict, tmp_path: Path
) -> Callable[..., None]:
    expected, gradients = loss_and_gradients(
        trainer_of(plain_cfg, encoder, rows, tmp_path / "plain"), batch
    )

    def check(trainer: CountTrainer, given: dict = batch, tolerance: float = 1e-6) -> None:
        loss, found = loss_and_gradients(trainer, given)
        assert loss == pytest.approx(expected, rel=1e-6)
        assert found.keys() == gradients.keys()
        for name, gradient in gradients.items():
            assert torch.allclose(found[name], gradient, rtol=1e-4, atol=tolerance), name

    return check


@pytest.fixture
def trainer_for(
    encoder: Encoder, rows: Dataset, tmp_path: Path
) -> Callable[[Config], CountTrainer]:
    return lambda cfg: trainer_of(cfg, encoder, rows, tmp_path)


@pytest.mark.parametrize(
    "settings",
    [
        {"backbone": {"unpacked": True}},
        {"train": {"checkpointing": True}},
        {"train": {"checkpointing": 1}},
        {"train": {"checkpointing": "auto"}},
    ],
    ids=str,
)
def test_setting_changes_no_gradient(
    settings: dict,
    plain_cfg: Config,
    same_as_plain: Callable[..., None],
    trainer_for: Callable[[Config], CountTrainer],
) -> None:
    same_as_plain(trainer_for(changed(plain_cfg, **settings)))


@pytest.mark.parametrize("kind", ["not folded", "packed", "unpacked"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_compiled_layers_change_no_gradient(
    checkpointing: bool,
    kind: str,
    plain_cfg: Config,
    same_as_plain: Callable[..., None],
    trainer_for: Callable[[Config], CountTrainer],
) -> None:
    torch._dynamo.reset()  # guards on modules are skipped: one process compiles one kind of layer
    # Traced and differentiated ahead, run by PyTorch's own kernels: no C++ compiler is needed.
    cfg = changed(plain_cfg, train={"checkpointing": checkpointing})
    trainer = trainer_for(changed(cfg, backbone={"unpacked": kind == "unpacked"}))
    model = trainer.model.get_base_model()
    learnt = {name: p.detach().clone() for name, p in model.named_parameters() if "lora_" in name}
    for name in learnt:  # what is folded now must be brought up to what is learnt after it
        model.get_parameter(name).data.zero_()
    folded = [] if kind == "not folded" else fuse_lora(model.model)
    assert bool(folded) is (kind != "not folded")
    for name, values in learnt.items():
        model.get_parameter(name).data.copy_(values)
    compile_layers(model, folded, backend="aot_eager")
    same_as_plain(trainer)


def test_adapters_that_fsdp_spreads_are_not_folded(
    plain_cfg: Config,
    trainer_for: Callable[[Config], CountTrainer],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = trainer_for(changed(plain_cfg, backbone={"unpacked": True})).model.get_base_model()
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert fuse_lora(model.model) == []
    monkeypatch.delenv("ACCELERATE_USE_FSDP")
    assert fuse_lora(model.model) != []


@pytest.mark.parametrize("adapter", [{"dropout": 0.1}, {"method": "dora"}], ids=str)
def test_only_plain_adapters_are_folded_to_train(
    adapter: dict, plain_cfg: Config, trainer_for: Callable[[Config], CountTrainer]
) -> None:
    trainer = trainer_for(changed(plain_cfg, adapter=adapter, backbone={"unpacked": True}))
    assert fuse_lora(trainer.model.get_base_model().model) == []


def test_weights_of_another_4_bit_type_are_not_folded(
    plain_cfg: Config, trainer_for: Callable[[Config], CountTrainer]
) -> None:
    model = trainer_for(plain_cfg).model.get_base_model().model
    projection = model.language_model.layers[0].mlp.up_proj.get_base_layer()
    projection.weight.quant_state.quant_type = "fp4"
    assert fuse_lora(model) == []
    projection.weight.quant_state.quant_type = "nf4"
    assert fuse_lora(model) != []


def test_padding_needs_no_mask(
    plain_cfg: Config,
    encoder: Encoder,
    batch: dict,
    same_as_plain: Callable[..., None],
    trainer_for: Callable[[Config], CountTrainer],
) -> None:
    ids = batch["input_ids"]
    mask = (ids != encoder.processor.tokenizer.pad_token_id).long()
    assert mask.min() == 0
    same_as_plain(trainer_for(plain_cfg), batch | {"attention_mask": mask})


def test_one_shape_for_all_batches_changes_no_gradient(
    plain_cfg: Config,
    encoder: Encoder,
    rows: Dataset,
    batch: dict,
    same_as_plain: Callable[..., None],
    trainer_for: Callable[[Config], CountTrainer],
) -> None:
    shape = BatchShape(batch["input_ids"].shape[1] + 7, batch["logits_to_keep"] + 9)
    padded = Collator(encoder, shape)([rows[0], rows[1], rows[5]])
    assert shape == (padded["input_ids"].shape[1], padded["logits_to_keep"])
    same_as_plain(trainer_for(plain_cfg), padded)


def test_what_nothing_reads_is_not_computed_and_not_missed(
    plain_cfg: Config, tiny_folder: Path, encoder: Encoder, batch: dict
) -> None:
    whole = LlavaForConditionalGeneration.from_pretrained(tiny_folder).eval()
    short = load_backbone(changed(plain_cfg, backbone={"quantization": "none"}).backbone)
    given = {name: batch[name] for name in ("input_ids", "pixel_values")}
    tower, layer = short.model.vision_tower.encoder.layers, short.model.language_model.layers[-1]
    ran: list[Any] = []
    tower[-1].mlp.register_forward_hook(lambda *_: ran.append("unread block"))
    layer.mlp.register_forward_hook(lambda _, given, __: ran.append(given[0].shape[1]))
    for kept in (0, 1, 5):
        expected = whole(**given, logits_to_keep=kept).logits
        found = short(**given, logits_to_keep=kept).logits
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert ran == [given["input_ids"].shape[1], 1, 5]
    ids = whole.generate(**given, max_new_tokens=5, do_sample=False)
    assert torch.equal(ids, short.generate(**given, max_new_tokens=5, do_sample=False))


def test_a_short_last_layer_gives_the_same_gradients(
    plain_cfg: Config,
    same_as_plain: Callable[..., None],
    trainer_for: Callable[[Config], CountTrainer],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(backbone, "shorten_last_layer", lambda model: model)
    same_as_plain(trainer_for(plain_cfg))


def test_all_batches_fit_into_one_shape(encoder: Encoder, rows: Dataset) -> None:
    asked = ["How many?", "How many people are in this image? Answer with a single number."]
    messages = [conversation(row % 8 * 9, asked[row % 2]) for row in range(len(rows))]
    mixed = rows.remove_columns("messages").add_column("messages", messages)
    lengths = [Collator(encoder)([row])["input_ids"].shape[1] for row in mixed]
    shape = batch_shape(encoder, mixed)
    assert shape.length == max(lengths) > min(lengths)
    batches = [Collator(encoder, shape)([row]) for row in mixed]
    assert {(b["input_ids"].shape[1], b["logits_to_keep"]) for b in batches} == {shape}
    starts = [int((b["labels"][0] != IGNORED).nonzero()[0]) for b in batches]
    assert min(starts) == shape.length - shape.kept + 1 < max(starts)


def test_a_tower_that_is_not_adapted_runs_without_a_graph(
    plain_cfg: Config, batch: dict, trainer_for: Callable[[Config], CountTrainer]
) -> None:
    cfg = changed(plain_cfg, adapter={"vision": False}, train={"checkpointing": True})
    trainer = trainer_for(cfg)
    seen: list[bool] = []
    tower = trainer.model.get_base_model().model.vision_tower
    tower.register_forward_hook(lambda _, __, out: seen.append(out.last_hidden_state.requires_grad))
    _, gradients = loss_and_gradients(trainer, batch)
    assert seen == [False]
    assert all(gradient.abs().max() > 0 for gradient in gradients.values())


def test_unpacked_layers_stay_4_bit_and_answer_to_the_bit(plain_cfg: Config) -> None:
    packed, unpacked = (
        load_backbone(changed(plain_cfg, backbone={"unpacked": flag}).backbone)
        for flag in (False, True)
    )
    name = "model.language_model.layers.0.mlp.up_proj"
    layers = packed.get_submodule(name), unpacked.get_submodule(name)
    assert isinstance(layers[1], UnpackedLinear4bit)
    assert isinstance(layers[1], Linear4bit)
    x = torch.randn(3, 5, 64)
    assert torch.equal(layers[0](x), layers[1](x))
