"""The LoRA method and its target layers. Reads and writes the adapter's folder."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel
from peft.tuners.lora import LoraLayer
from torch import Tensor
from transformers import LlavaForConditionalGeneration

from llava_dvc import config, errors
from llava_dvc.files import require_regular_files
from llava_dvc.load_errors import first_line
from llava_dvc.model.adapter_check import (
    CURRENT_NAMES,
    adapter_section,
    expected_shapes,
    read_settings,
    require_finite,
    require_processor,
    require_settings,
    require_tensors,
)
from llava_dvc.model.backbone import load_backbone, load_encoder
from llava_dvc.model.encoder import Encoder
from llava_dvc.model.model_patches import blocks_read
from llava_dvc.recipe import (
    ADAPTER_CONFIG,
    CHAT_TEMPLATE_FILE,
    MANIFEST,
    PROCESSOR_FILES,
    WEIGHTS,
    Recipe,
    backbone_digest,
    read_manifest,
    read_object,
    require_file,
    require_unchanged,
    weight_shapes,
)

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
    """Backbone and adapter in evaluation mode, the encoder they were trained with, the recipe.

    Raises UserError with one line when the adapter is not whole, or does not fit the backbone. All
    that needs no backbone is checked before it is loaded.
    """
    recipe = Recipe.read(folder)
    require_regular_files(folder)
    stored, shapes = read_settings(folder, recipe), weight_shapes(folder)
    encoder = load_adapter_encoder(folder, recipe.image)
    require_unchanged(folder)
    with backbone_of_manifest(folder, recipe.backbone):
        backbone = load_backbone(recipe.backbone)
    require_processor(folder, encoder, backbone)
    built = stored_config(folder / ADAPTER_CONFIG, stored, backbone)
    require_tensors(folder / WEIGHTS, shapes, expected_shapes(backbone, built))
    model = PeftModel.from_pretrained(backbone, folder, config=built, key_mapping=CURRENT_NAMES)
    require_finite(folder, model)
    merge_float32_layers(model)
    return model.eval(), encoder, recipe


def stored_config(
    path: Path, stored: dict[str, Any], model: LlavaForConditionalGeneration
) -> LoraConfig:
    """Our own PEFT config with the settings of an adapter_config.json.

    The file's `target_modules` are compared as text with those that we write. They are never run as
    a regex.
    """
    section = adapter_section(path, stored)
    layers = [{"projector": p, "vision": v} for p in (True, False) for v in (True, False)]
    configs = [peft_config(section.model_copy(update=part), model) for part in layers]
    same = [one for one in configs if one.target_modules == stored.get("target_modules")]
    [built, *_] = same or configs
    require_settings(path, stored, built)
    return built


def load_adapter_encoder(folder: Path, image: config.Image) -> Encoder:
    """The encoder of an adapter's folder. Raises UserError when the processor cannot be loaded."""
    for name in PROCESSOR_FILES:
        read_object(folder / name)
    require_file(folder / CHAT_TEMPLATE_FILE)
    try:
        return load_encoder(folder, image)
    except errors.UserError:
        raise
    except Exception as error:  # transformers and tokenizers raise any kind for a broken file
        reason = f"no processor of LLaVA: {first_line(error)}"
        raise errors.unreadable_adapter_file(folder / PROCESSOR_FILES[0], reason) from error


@contextmanager
def backbone_of_manifest(folder: Path, backbone: config.Backbone) -> Iterator[None]:
    """Raises UserError after the block when a manifest names another backbone.

    Digests a local backbone in a thread, while the block loads it.
    """
    if not (folder / MANIFEST).exists():
        yield
        return
    wanted = read_manifest(folder)["inputs_md5"].get("backbone")
    with ThreadPoolExecutor(1) as pool:
        digest = pool.submit(backbone_digest, backbone)
        yield
        if digest.result() != wanted:
            raise errors.other_backbone(folder / MANIFEST, backbone.name)


def merge_float32_layers(model: PeftModel) -> None:
    """Adds the adapter into the layers that are kept in float32. This is faster and equal up to
    the last digits. In 4 or 16 bits rounding would lose the sum.
    """
    for module in model.modules():
        if isinstance(module, LoraLayer) and module.get_base_layer().weight.dtype == torch.float32:
            module.merge()


def keep_float32(model: PeftModel) -> None:
    """Casts adapters to float32.

    TRL makes adapters of a 4-bit model bf16. Rounding then loses most updates of a small learning
    rate.
    """
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
