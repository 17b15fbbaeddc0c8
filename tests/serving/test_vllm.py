"""Which adapters vLLM takes."""

import json

import numpy as np
import pytest
from peft import get_peft_model
from peft.utils import get_peft_model_state_dict
from PIL import ImageOps

from llava_dvc.config import load_config
from llava_dvc.errors import UserError
from llava_dvc.model.adapter import peft_config, save_adapter
from llava_dvc.model.backbone import load_backbone
from llava_dvc.model.encoder import image_processor
from llava_dvc.recipe import Recipe
from llava_dvc.serving.vllm import RANKS, command, objections
from llava_dvc.training.count_trainer import adapter_weights
from tests.conftest import ROOT, frame


def adapted(cfg, adapter):
    model = load_backbone(cfg.backbone)
    return get_peft_model(model, peft_config(adapter, model))


def examined(model):
    config = model.peft_config["default"].to_dict()
    return objections(config, get_peft_model_state_dict(model))


@pytest.mark.parametrize("preset", ["llava-1.5-7b", "llava-1.5-7b-tuned"])
def test_adapters_of_the_7b_presets_pass(cfg, preset):
    adapter = load_config(ROOT / "presets" / f"{preset}.yaml").adapter
    assert adapter.r in RANKS
    assert examined(adapted(cfg, adapter)) == []


def test_the_vision_tower_does_not(cfg):
    (reason,) = examined(adapted(cfg, cfg.adapter))
    assert "vision tower under names that vLLM has no layer for" in reason


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"method": "dora"}, "DoRA"),
        ({"r": 513}, "rank is 513, over 512"),
    ],
)
def test_what_vllm_refuses(cfg, change, reason):
    adapter = cfg.adapter.model_copy(update={"vision": False, **change})
    assert any(reason in text for text in examined(adapted(cfg, adapter)))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"bias": "all"}, "biases"),
        ({"rank_pattern": {"q_proj": 4}}, "rank_pattern"),
        ({"peft_type": "IA3"}, "IA3"),
    ],
)
def test_what_only_others_adapters_have(change, reason):
    (text,) = objections({"peft_type": "LORA", "r": 8, **change}, [])
    assert reason in text


def test_unknown_names_are_found():
    name = "base_model.model.language_model.layers.0.mlp.up_proj.lora_A.weight"
    (text,) = objections({"peft_type": "LORA", "r": 8}, [name])
    assert text == f"1 of its weights have no place in vLLM, {name} for one"


@pytest.fixture
def saved(cfg, encoder, adapter_folder, tmp_path):
    """An adapter of rank 4 on language model and projector, as train leaves it."""
    adapter = cfg.adapter.model_copy(update={"vision": False})
    model = adapted(cfg, adapter)
    save_adapter(model, adapter_weights(model), encoder, Recipe.read(adapter_folder), tmp_path)
    return tmp_path


def test_the_command_fits_the_adapter(saved, cfg):
    given = command(saved)
    assert given.startswith(f"vllm serve {cfg.backbone.name} --enable-lora")
    assert "--enable-tower-connector-lora" in given  # for the projector
    assert "--max-lora-rank 8" in given  # the next that may be
    assert f"--lora-modules counter={saved}" in given
    assert "--revision" not in given  # it is a folder


def test_the_command_is_refused_with_the_reason(saved, adapter_folder):
    with pytest.raises(UserError, match="not for vLLM: it adapts the vision tower"):
        command(adapter_folder)
    recipe = Recipe.read(saved)
    image = recipe.image.model_copy(update={"drop_border": True})
    recipe.model_copy(update={"image": image}).write(saved)
    with pytest.raises(UserError, match="trained without its border's tokens"):
        command(saved)


def test_a_folder_with_dora_is_refused(saved):
    path = saved / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"use_dora": True}))
    with pytest.raises(UserError, match="it is DoRA"):
        command(saved)


def test_squares_that_a_client_pads_are_what_pad_makes():
    """docs/serving.md has clients pad, because vLLM takes the checkpoint's own image encoder."""
    image = frame(1, (640, 480))
    square = ImageOps.pad(image, (640, 640), color=(122, 116, 104))
    ours = image_processor("pad", 336)(image, return_tensors="np")["pixel_values"]
    theirs = image_processor("crop", 336)(square, return_tensors="np")["pixel_values"]
    np.testing.assert_array_equal(ours, theirs)
