"""The `adapter` section as a PEFT config; the adapter folder, written and read."""

from pathlib import Path

import torch
from peft import LoraConfig, PeftModel
from peft.tuners.lora import LoraLayer
from torch import Tensor
from transformers import AutoProcessor, LlavaForConditionalGeneration, LlavaProcessor

from llava_dvc import config
from llava_dvc.errors import UserError
from llava_dvc.model.backbone import load_backbone, with_geometry
from llava_dvc.model.model_patches import blocks_read
from llava_dvc.recipe import Recipe

LANGUAGE = r"model\.language_model\.layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)"
PROJECTOR = r"model\.multi_modal_projector\.linear_[12]"
VISION = r"model\.vision_tower\.encoder\.layers\.({})\.(self_attn\.(q|k|v|out)_proj|mlp\.fc[12])"


def targets(adapter: config.Adapter, model: LlavaForConditionalGeneration) -> str:
    """A regex that matches the full names of exactly the layers to adapt.

    A list of suffixes would reach into the vision tower, whose layers are also called q_proj and
    v_proj. Blocks of the tower after the one that LLaVA reads (`vision_feature_layer`, -2) never
    see a gradient and are left out.
    """
    parts = [LANGUAGE]
    if adapter.projector:
        parts.append(PROJECTOR)
    if adapter.vision:
        parts.append(VISION.format("|".join(map(str, range(blocks_read(model.config))))))
    return "|".join(f"({part})" for part in parts)


def peft_config(adapter: config.Adapter, model: LlavaForConditionalGeneration) -> LoraConfig:
    """What PEFT needs to put the adapter on `model`."""
    return LoraConfig(
        r=adapter.r,
        lora_alpha=adapter.alpha,
        lora_dropout=adapter.dropout,
        use_rslora=adapter.method == "rslora",
        use_dora=adapter.method == "dora",
        target_modules=targets(adapter, model),
        task_type="CAUSAL_LM",
    )


def save_adapter(
    model: PeftModel,
    weights: dict[str, Tensor],
    processor: LlavaProcessor,
    recipe: Recipe,
    folder: Path,
) -> None:
    """Write the adapter, which is `weights`, the processor with its template, and the recipe: the
    same bytes for the same model.
    """
    model.save_pretrained(folder, state_dict=weights)
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty form; publish writes the card
    processor.save_pretrained(folder)
    recipe.write(folder)


def load_adapter(folder: Path) -> tuple[PeftModel, LlavaProcessor, Recipe]:
    """Backbone and adapter, ready to answer, with the processor they were trained with."""
    recipe = Recipe.read(folder)
    if not (folder / "adapter_model.safetensors").is_file():  # PEFT would take a pickle instead
        raise UserError(f"{folder}/adapter_model.safetensors: not found; take a whole adapter")
    model = PeftModel.from_pretrained(load_backbone(recipe.backbone), folder)
    merge_float32(model)
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=False)
    return model.eval(), with_geometry(processor, recipe.image), recipe


def merge_float32(model: PeftModel) -> None:
    """Add the adapter into the layers that are kept in float32: the same numbers to the last digit
    or two, and faster. In 4 or 16 bits the sum would be rounded away.
    """
    for module in model.modules():
        if isinstance(module, LoraLayer) and module.get_base_layer().weight.dtype == torch.float32:
            module.merge()
