"""The LoRA method and its target layers. Reads and writes the adapter's folder."""

from pathlib import Path

import torch
from peft import LoraConfig, PeftModel
from peft.tuners.lora import LoraLayer
from torch import Tensor
from transformers import LlavaForConditionalGeneration

from llava_dvc import config, errors
from llava_dvc.model.backbone import load_backbone, load_encoder
from llava_dvc.model.encoder import Encoder
from llava_dvc.model.model_patches import blocks_read
from llava_dvc.recipe import WEIGHTS, Recipe

LANGUAGE = r"model\.language_model\.layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)"
PROJECTOR = r"model\.multi_modal_projector\.linear_[12]"
VISION = r"model\.vision_tower\.encoder\.layers\.({})\.(self_attn\.(q|k|v|out)_proj|mlp\.fc[12])"

Weights = dict[str, Tensor]
"""An adapter's tensors by the names of the model's parameters."""


def target_layers(adapter: config.Adapter, model: LlavaForConditionalGeneration) -> str:
    """A regex that matches the full names of exactly the layers to adapt.

    A list of suffixes would reach into the vision tower, whose layers are also called q_proj and
    v_proj. The tower's blocks behind `vision_feature_layer` (-2) get no gradient and no adapter.
    """
    parts = [LANGUAGE]
    if adapter.projector:
        parts.append(PROJECTOR)
    if adapter.vision:
        parts.append(VISION.format("|".join(map(str, range(blocks_read(model.config))))))
    return "|".join(f"({part})" for part in parts)


def peft_config(adapter: config.Adapter, model: LlavaForConditionalGeneration) -> LoraConfig:
    """The PEFT config of the `adapter` section for `model`."""
    return LoraConfig(
        r=adapter.r,
        lora_alpha=adapter.alpha,
        lora_dropout=adapter.dropout,
        use_rslora=adapter.method == "rslora",
        use_dora=adapter.method == "dora",
        target_modules=target_layers(adapter, model),
        task_type="CAUSAL_LM",
    )


def save_adapter(
    model: PeftModel, weights: Weights, encoder: Encoder, recipe: Recipe, folder: Path
) -> None:
    """Writes `weights`, the processor with its chat template, and the recipe. The same adapter
    gives the same bytes.
    """
    model.save_pretrained(folder, state_dict=weights)
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty card; publish writes its own
    encoder.save(folder)
    recipe.write(folder)


def load_adapter(folder: Path) -> tuple[PeftModel, Encoder, Recipe]:
    """Backbone and adapter in evaluation mode, the encoder they were trained with, the recipe."""
    recipe = Recipe.read(folder)
    if not (folder / WEIGHTS).is_file():  # PEFT would take a pickle instead
        raise errors.weights_not_found(folder / WEIGHTS)
    model = PeftModel.from_pretrained(load_backbone(recipe.backbone), folder)
    merge_float32_layers(model)
    return model.eval(), load_encoder(folder, recipe.image), recipe


def merge_float32_layers(model: PeftModel) -> None:
    """Adds the adapter into the layers that are kept in float32. This is faster and equal up to
    the last digits. In 4 or 16 bits rounding would lose the sum.
    """
    for module in model.modules():
        if isinstance(module, LoraLayer) and module.get_base_layer().weight.dtype == torch.float32:
            module.merge()
