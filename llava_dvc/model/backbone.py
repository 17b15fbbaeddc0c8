"""Loads LLaVA, in 4-bit, FP8 or neither, and its encoder."""

import os
from collections.abc import Collection
from pathlib import Path

import torch
from bitsandbytes.nn import Linear4bit
from torch import nn
from transformers import (
    AutoProcessor,
    BitsAndBytesConfig,
    LlavaForConditionalGeneration,
)
from transformers.utils.logging import disable_progress_bar

from llava_dvc import config, errors
from llava_dvc.load_errors import explain_load_errors
from llava_dvc.model import attention
from llava_dvc.model.chat_template import CHAT_TEMPLATE
from llava_dvc.model.encoder import Encoder
from llava_dvc.model.fp8.linear import quantize_layers
from llava_dvc.model.model_patches import shorten_last_layer, skip_unread_blocks, unpack

# Full names from the model's root: shorter ones match nothing. The list replaces the library's
# own, so `lm_head` must be in it.
NOT_QUANTIZED = ["model.vision_tower", "model.multi_modal_projector", "lm_head"]


def load_backbone(backbone: config.Backbone) -> LlavaForConditionalGeneration:
    """The frozen model on its device, in evaluation mode.

    nf4 and fp8 quantize the language model's linear layers only. Raises UserError with one line
    when the checkpoint cannot be loaded.
    """
    torch.set_num_threads(backbone.threads)
    # Attention's least weights are below 1e-38. A CPU takes many times as long for such numbers.
    torch.set_flush_denormal(True)
    if Path(backbone.name).is_dir():  # a bar for a second would only push the stage's own away
        disable_progress_bar()
    fp8 = backbone.quantization == "fp8"
    with explain_load_errors(backbone):
        model, found = LlavaForConditionalGeneration.from_pretrained(
            backbone.name,
            revision=backbone.revision,
            dtype=getattr(torch, backbone.dtype),
            device_map=None if fp8 else {"": device_of(backbone)},
            attn_implementation={"text_config": attention.NAME, "vision_config": "sdpa"},
            quantization_config=_quantization(backbone),
            use_safetensors=True,
            output_loading_info=True,
        )
    _require_all_weights(backbone.name, model, found["missing_keys"])
    if fp8:  # from the 16-bit weights in main memory: the card never holds all of them
        quantize_layers(model.model.language_model.layers, torch.device(device_of(backbone)))
        model.to(device_of(backbone))
    for module in model.modules():
        if isinstance(module, Linear4bit):
            # On CPUs with AVX512-BF16 an evaluation packs the weights for a kernel that has no
            # backward.
            module.support_avx512bf16_for_cpu = False
    if backbone.unpacked:
        unpack(model)
    skip_unread_blocks(model)
    return shorten_last_layer(model).eval().requires_grad_(False)


def _require_all_weights(name: str, model: nn.Module, missing: Collection[str]) -> None:
    """Raises UserError when weights are not in the checkpoint, or have another shape.

    transformers only warns about missing ones, and draws them at random. It packs 4-bit weights
    without a look at their shape.
    """
    if missing:
        problem = f"has no tensor {min(missing)} ({len(missing)} tensors are missing)"
        raise errors.damaged_backbone(name, problem)
    for path, layer in model.named_modules():
        if isinstance(layer, Linear4bit):
            state = layer.weight.quant_state
            found, wanted = state and tuple(state.shape), (layer.out_features, layer.in_features)
            if found != wanted:
                problem = f"has a tensor {path}.weight of the shape {found}, expected {wanted}"
                raise errors.damaged_backbone(name, problem)


def load_encoder(folder: Path, image: config.Image) -> Encoder:
    """The encoder of an adapter's or merged model's folder.

    Raises UserError when the folder's chat template is not ours: it was trained with another
    prompt.
    """
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=False)
    if processor.chat_template != CHAT_TEMPLATE:
        raise errors.foreign_template(folder)
    return Encoder(processor, image)


def backbone_encoder(backbone: config.Backbone, image: config.Image) -> Encoder:
    """The encoder of the backbone's own processor, with our chat template in place of its own.

    Raises UserError when it cannot be loaded.
    """
    with explain_load_errors(backbone):
        processor = AutoProcessor.from_pretrained(
            backbone.name, revision=backbone.revision, trust_remote_code=False
        )
    return Encoder(processor, image)


def is_spread_by_fsdp() -> bool:
    """Whether `accelerate launch` was asked to spread the layers over several GPUs."""
    return os.environ.get("ACCELERATE_USE_FSDP") == "true"


def device_of(backbone: config.Backbone) -> str:
    """This process's own GPU when several processes were started together."""
    return f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if backbone.device == "cuda" else "cpu"


def _quantization(backbone: config.Backbone) -> BitsAndBytesConfig | None:
    if backbone.quantization != "nf4":
        return None
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, backbone.dtype),
        # FSDP spreads only tensors of a floating-point type. The bits are the same.
        bnb_4bit_quant_storage=getattr(torch, backbone.dtype if is_spread_by_fsdp() else "uint8"),
        llm_int8_skip_modules=NOT_QUANTIZED,
    )
