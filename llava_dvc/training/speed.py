"""What makes a training step fast, and whether its activations fit."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import LlavaForConditionalGeneration

from llava_dvc import config
from llava_dvc.model.model_patches import blocks_read

FREE_SHARE = 0.8  # share of the free memory that activations may take


def compile_layers(
    model: LlavaForConditionalGeneration,
    fused: Sequence[nn.Module] = (),
    backend: str = "inductor",
) -> None:
    """Compiles the tower's blocks and the language model's layers, or the `fused` ones.

    All batches must have one shape. Layers that are alike share one compiled graph: this takes
    seconds. The last layer is different and short, and stays eager. Skips torch.compile's guards on
    modules: nothing about a layer changes in training, and checking takes longer than computing.
    """
    blocks = model.model.vision_tower.encoder.layers[: blocks_read(model.config)]
    options: Any = {"guard_filter_fn": torch.compiler.skip_guard_on_all_nn_modules_unsafe}
    for layer in [*blocks, *(fused or model.model.language_model.layers[:-1])]:
        layer.compile(dynamic=False, backend=backend, options=dict(options))


def recomputes_activations(
    train: config.Train, model: LlavaForConditionalGeneration, tokens: int
) -> bool:
    """Whether to use gradient checkpointing, as `train.checkpointing` says.

    `auto` uses it when the activations of a batch of `tokens` do not fit into the free GPU memory.
    """
    if train.checkpointing != "auto":
        return train.checkpointing
    if model.device.type != "cuda":
        return False
    free, _ = torch.cuda.mem_get_info(model.device)
    return activation_bytes(model.config.text_config, tokens) > FREE_SHARE * free


def activation_bytes(text: Any, tokens: int) -> int:
    """Bytes of the activations that backward needs for `tokens` tokens, in 16 bits.

    A layer keeps about ten tensors of the hidden width and four of the inner width. Measured on
    7B: 161 KiB a token and layer. This rule says 170.
    """
    a_token = 2 * (10 * text.hidden_size + 4 * text.intermediate_size)
    return int(tokens * text.num_hidden_layers * a_token)
