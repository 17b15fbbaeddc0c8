"""Load LLaVA, in 4-bit or not, and its processor."""

import os

import torch
from bitsandbytes.nn import Linear4bit
from transformers import (
    AutoProcessor,
    BitsAndBytesConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)

from llava_dvc import config
from llava_dvc.load_errors import one_line
from llava_dvc.model import attention, model_patches
from llava_dvc.model.chat_template import CHAT_TEMPLATE
from llava_dvc.model.geometry import image_processor
from llava_dvc.model.padding import Border

# Full names from the model's root: bare ones match nothing. The list replaces the library's own, so
# `lm_head` must be in it.
KEPT_WHOLE = ["model.vision_tower", "model.multi_modal_projector", "lm_head"]


def load_backbone(backbone: config.Backbone) -> LlavaForConditionalGeneration:
    """The frozen model on its device, in evaluation mode; nf4 reaches the language model's linear
    layers only.
    """
    torch.set_num_threads(backbone.threads)
    with one_line(backbone):
        model = LlavaForConditionalGeneration.from_pretrained(
            backbone.name,
            revision=backbone.revision,
            dtype=getattr(torch, backbone.dtype),
            device_map={"": device_of(backbone)},
            attn_implementation={"text_config": attention.NAME, "vision_config": "sdpa"},
            quantization_config=_quantization(backbone),
            use_safetensors=True,
        )
    for module in model.modules():
        if isinstance(module, Linear4bit):
            # On CPUs with AVX512-BF16 an evaluation packs the weights for a kernel that has no
            # backward.
            module.support_avx512bf16_for_cpu = False
    if backbone.unpacked:
        model_patches.unpack(model)
    model_patches.skip_unread_blocks(model)
    model_patches.shorten_last_layer(model)
    return model.eval().requires_grad_(False)


def spread_by_fsdp() -> bool:
    """Whether `accelerate launch` was asked to spread the layers over several GPUs."""
    return os.environ.get("ACCELERATE_USE_FSDP") == "true"


def device_of(backbone: config.Backbone) -> str:
    """This process's own GPU when several were started together."""
    return f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if backbone.device == "cuda" else "cpu"


def load_processor(backbone: config.Backbone, image: config.Image) -> LlavaProcessor:
    """The checkpoint's processor with our geometry and our chat template in place of its own."""
    with one_line(backbone):
        processor = AutoProcessor.from_pretrained(
            backbone.name, revision=backbone.revision, trust_remote_code=False
        )
    processor.chat_template = CHAT_TEMPLATE
    return with_geometry(processor, image)


def with_geometry(processor: LlavaProcessor, image: config.Image) -> LlavaProcessor:
    """The same processor with our image processor: which class loads depends on what else is
    installed.
    """
    size = processor.image_processor.size
    side = size["shortest_edge"] or size["height"]
    processor.image_processor = image_processor(image.geometry, side)
    processor.border = Border(side // processor.patch_size) if image.drop_border else None
    return processor


def _quantization(backbone: config.Backbone) -> BitsAndBytesConfig | None:
    if backbone.quantization == "none":
        return None
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, backbone.dtype),
        # FSDP spreads only tensors of a floating format: the same bits, called otherwise.
        bnb_4bit_quant_storage=getattr(torch, backbone.dtype if spread_by_fsdp() else "uint8"),
        llm_int8_skip_modules=KEPT_WHOLE,
    )
