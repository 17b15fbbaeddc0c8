"""What makes a training step fast."""

from collections.abc import Sequence
from typing import Any

import torch
from accelerate import PartialState
from torch import nn
from transformers import LlavaForConditionalGeneration

from llava_dvc import config
from llava_dvc.model.fused_lora import fuse_lora
from llava_dvc.model.model_patches import blocks_read, skip_masks, trust_image_tokens


def speed_up(backbone: LlavaForConditionalGeneration, settings: config.Train) -> None:
    """Changes how a backbone with its adapter computes, not what."""
    trust_image_tokens(backbone)
    skip_masks(backbone)
    if settings.compile:
        compile_layers(backbone, fuse_lora(backbone.model))


def can_be_recorded(
    settings: config.Train, adapter: config.Adapter, model: LlavaForConditionalGeneration
) -> bool:
    """Whether forward and backward pass can be one CUDA graph: all batches have one shape, nothing
    waits for the GPU or draws random numbers, and no other process is waited for.
    """
    return (
        model.device.type == "cuda"
        and model.dtype == torch.bfloat16
        and settings.compile
        and settings.loss == "ce"
        and settings.accumulation == 1
        and adapter.dropout == 0
        and PartialState().num_processes == 1
    )


def compile_layers(
    model: LlavaForConditionalGeneration,
    fused: Sequence[nn.Module] = (),
    backend: str = "inductor",
) -> None:
    """Compiles the tower's blocks and the language model's layers, or the `fused` ones.

    All batches must have one shape. Layers that are alike share one compiled graph: this takes
    seconds. The last layer is different and short, and stays eager. Skips torch.compile's guards on
    modules, except on what `recompute_layers` sets: nothing else differs between layers or changes
    in training, and checking takes longer than computing.
    """
    blocks = model.model.vision_tower.encoder.layers[: blocks_read(model.config)]
    options: Any = {"guard_filter_fn": _guards_to_check}
    for layer in [*blocks, *(fused or model.model.language_model.layers[:-1])]:
        layer.compile(dynamic=False, backend=backend, options=dict(options))


def _guards_to_check(guards: Sequence[Any]) -> list[bool]:
    skip: Any = torch.compiler.skip_guard_on_all_nn_modules_unsafe
    names = [guard.name.endswith(".gradient_checkpointing") for guard in guards]
    return [one or other for one, other in zip(skip(guards), names, strict=True)]
