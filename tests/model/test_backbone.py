"""Backbones that are not whole, or would fill memory: refused with one line."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from llava_dvc.checks.hardware import require_hardware
from llava_dvc.config import Backbone
from llava_dvc.errors import UserError
from llava_dvc.model.backbone import load_backbone
from llava_dvc.model.counting import CountPredictor
from tests.conftest import frame

Change = Callable[[Path], Any]
UP = "model.language_model.layers.0.mlp.up_proj.weight"
NORM = "model.language_model.norm.weight"


def set_size(section: str, key: str, value: int) -> Change:
    def change(folder: Path) -> None:
        values = json.loads((folder / "config.json").read_text())
        values[section][key] = value
        (folder / "config.json").write_text(json.dumps(values))

    return change


def change_tensors(change: Callable[[str, torch.Tensor], torch.Tensor | None]) -> Change:
    def changed(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        own = {name.replace("language_model.model.", "model.language_model."): name
               for name in tensors}  # fmt: skip
        kept = {name: change(known, tensors[name]) for known, name in own.items()}
        kept = {name: tensor for name, tensor in kept.items() if tensor is not None}
        save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})

    return changed


def make_pipe(name: str) -> Change:
    def change(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)

    return change


@pytest.fixture
def changed(cfg, tmp_path) -> Callable[[Change], Backbone]:
    def copy(change: Change) -> Backbone:
        folder = Path(shutil.copytree(cfg.backbone.name, tmp_path / "llava"))
        change(folder)
        return cfg.backbone.model_copy(update={"name": str(folder)})

    return copy


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (
            set_size("text_config", "num_hidden_layers", 100_000),
            "{}: text_config.num_hidden_layers in config.json is 100000, expected 1 to 1000.",
        ),
        (set_size("text_config", "num_hidden_layers", 0), "{}: text_config.num_hidden_layers in"),
        (
            set_size("text_config", "max_position_embeddings", 10**12),
            "{}: text_config.max_position_embeddings in config.json is 1000000000000, expected 1",
        ),
        (
            set_size("vision_config", "num_hidden_layers", 100_000),
            "{}: vision_config.num_hidden_layers in config.json is 100000, expected 1 to 1000.",
        ),
        (
            change_tensors(lambda name, t: t.to(torch.int8) if name == UP else t),
            "{} has a tensor ",
        ),
        (
            set_size("text_config", "num_hidden_layers", 3),
            "{} holds 332,288 weights, but its config.json describes ",
        ),
        (
            set_size("text_config", "hidden_size", 50_000),
            "{} holds 332,288 weights, but its config.json describes ",
        ),
        (
            set_size("text_config", "vocab_size", 10**9),
            "{} holds 332,288 weights, but its config.json describes ",
        ),
        (
            set_size("vision_config", "image_size", 10**6),
            "{} holds 332,288 weights, but its config.json describes ",
        ),
        (make_pipe("config.json"), "{}/config.json: is not a regular file; delete it, or put"),
        (make_pipe("model.safetensors"), "{}/model.safetensors: is not a regular file; delete it"),
        (make_pipe("added_tokens.json"), "{}/added_tokens.json: is not a regular file; delete it"),
    ],
)
def test_what_fills_memory_or_hangs_is_refused_before_loading(changed, change, line):
    backbone = changed(change)
    with pytest.raises(UserError) as caught:
        require_hardware(backbone)
    assert str(caught.value).removeprefix("backbone.name: ").startswith(line.format(backbone.name))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("quantization", ["nf4", "none"])
@pytest.mark.parametrize(
    ("change", "line"),
    [
        (change_tensors(lambda name, t: None if name == UP else t), "has no tensor "),
        (change_tensors(lambda name, t: None if name == NORM else t), "has no tensor "),
        (change_tensors(lambda name, t: t[:-1].clone() if name == UP else t), ""),
        (set_size("text_config", "num_hidden_layers", 3), "has no tensor "),
        (set_size("text_config", "hidden_size", 128), "cannot be loaded ("),
    ],
)
def test_weights_that_are_not_whole_are_refused(changed, change, line, quantization):
    backbone = changed(change).model_copy(update={"quantization": quantization, "unpacked": False})
    with pytest.raises(UserError) as caught:
        load_backbone(backbone)
    assert str(caught.value).startswith(f"backbone.name: {backbone.name} {line}")
    assert "\n" not in str(caught.value)


def test_an_answer_that_is_not_a_number_is_no_count(changed, encoder):
    model = load_backbone(changed(lambda folder: None))
    model.model.language_model.norm.weight.data[0] = torch.nan
    predictor = CountPredictor(model, encoder, "How many people?", 20)
    with pytest.raises(UserError, match=r"^the model answers NaN: weights of the adapter or of th"):
        predictor.predict([frame(1)], 1)


def test_numbers_next_to_nothing_count_as_nothing(cfg):
    """A training on a CPU takes a quarter longer with them."""
    torch.set_flush_denormal(False)
    load_backbone(cfg.backbone)
    assert torch.tensor(1e-30) * 1e-10 == 0
