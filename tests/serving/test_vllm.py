"""Which adapters vLLM can serve."""

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
from llava_dvc.recipe import Recipe, Zones
from llava_dvc.serving.vllm import MAX_LORA_RANKS, unsupported_features, vllm_serve_command
from llava_dvc.training.count_trainer import adapter_weights
from tests.conftest import ROOT, frame


def with_adapter(cfg, adapter):
    model = load_backbone(cfg.backbone)
    return get_peft_model(model, peft_config(adapter, model))


def unsupported_in(model):
    config = model.peft_config["default"].to_dict()
    return unsupported_features(config, get_peft_model_state_dict(model))


@pytest.mark.parametrize("preset", ["llava-1.5-7b", "llava-1.5-7b-tuned", "llava-1.5-7b-fp8"])
def test_adapters_of_the_7b_presets_pass(cfg, preset):
    adapter = load_config(ROOT / "presets" / f"{preset}.yaml").adapter
    assert adapter.r in MAX_LORA_RANKS
    assert unsupported_in(with_adapter(cfg, adapter)) == []


def test_an_adapted_vision_tower_is_unsupported(cfg):
    (reason,) = unsupported_in(with_adapter(cfg, cfg.adapter))
    assert "vision tower under names that vLLM has no layer for" in reason


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"method": "dora"}, "DoRA"),
        ({"r": 513}, "rank is 513, over 512"),
    ],
)
def test_unsupported_methods_and_ranks(cfg, change, reason):
    adapter = cfg.adapter.model_copy(update={"vision": False, **change})
    assert any(reason in text for text in unsupported_in(with_adapter(cfg, adapter)))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"bias": "all"}, "biases"),
        ({"rank_pattern": {"q_proj": 4}}, "rank_pattern"),
        ({"peft_type": "IA3"}, "IA3"),
    ],
)
def test_unsupported_settings_of_foreign_adapters(change, reason):
    (text,) = unsupported_features({"peft_type": "LORA", "r": 8, **change}, [])
    assert reason in text


def test_weights_of_unknown_name_are_reported():
    name = "base_model.model.language_model.layers.0.mlp.up_proj.lora_A.weight"
    (text,) = unsupported_features({"peft_type": "LORA", "r": 8}, [name])
    assert text == f"vLLM has no layer for 1 of its weights, such as {name}"


@pytest.fixture
def saved(cfg, encoder, adapter_folder, tmp_path):
    """An adapter of rank 4 on language model and projector, as train leaves it."""
    adapter = cfg.adapter.model_copy(update={"vision": False})
    model = with_adapter(cfg, adapter)
    save_adapter(model, adapter_weights(model), encoder, Recipe.read(adapter_folder), tmp_path)
    return tmp_path


def test_the_command_fits_the_adapter(saved, cfg):
    command = vllm_serve_command(saved)
    assert command.startswith(f"vllm serve {cfg.backbone.name} --enable-lora")
    assert "--enable-tower-connector-lora" in command  # for the projector
    assert "--max-lora-rank 8" in command  # the next value that vLLM takes
    assert f"--lora-modules counter={saved}" in command
    assert "--revision" not in command  # it is a folder


def test_an_fp8_backbone_is_served_in_fp8(saved):
    assert "--quantization" not in vllm_serve_command(saved)
    recipe = Recipe.read(saved)
    fp8 = recipe.backbone.model_copy(update={"quantization": "fp8"})
    recipe.model_copy(update={"backbone": fp8}).write(saved)
    assert "--quantization fp8 " in vllm_serve_command(saved)


def test_the_command_is_refused_with_the_reason(saved, adapter_folder):
    with pytest.raises(UserError, match="vLLM cannot serve it: it adapts the vision tower"):
        vllm_serve_command(adapter_folder)
    recipe = Recipe.read(saved)
    image = recipe.image.model_copy(update={"drop_border": True})
    recipe.model_copy(update={"image": image}).write(saved)
    with pytest.raises(UserError, match="trained without the tokens of the border"):
        vllm_serve_command(saved)
    image = recipe.image.model_copy(update={"tiles": (2, 1)})
    recipe.model_copy(update={"image": image}).write(saved)
    with pytest.raises(UserError, match="vLLM cannot serve it: it counts the tiles of a frame and"):
        vllm_serve_command(saved)
    zones = Zones(name="door", polygons={"door": {"*": ((0, 0), (9, 0), (0, 9))}})
    recipe.model_copy(update={"zones": zones}).write(saved)
    with pytest.raises(UserError, match="vLLM cannot serve it: it counts in a zone, and vLLM"):
        vllm_serve_command(saved)


def test_a_folder_with_dora_is_refused(saved):
    path = saved / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"use_dora": True}))
    with pytest.raises(UserError, match="it is DoRA"):
        vllm_serve_command(saved)


def test_a_client_that_pads_a_square_gets_the_pixels_of_pad():
    """docs/serving.md tells clients to pad: vLLM uses the checkpoint's own image processor."""
    image = frame(1, (640, 480))
    square = ImageOps.pad(image, (640, 640), color=(122, 116, 104))
    ours = image_processor("pad", 336)(image, return_tensors="np")["pixel_values"]
    theirs = image_processor("crop", 336)(square, return_tensors="np")["pixel_values"]
    np.testing.assert_array_equal(ours, theirs)
