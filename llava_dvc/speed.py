"""What makes a training step fast and small. Each function changes how a result is computed, not
the result: `tests/test_speed.py` holds its loss and gradients to the plain path's.
"""

from typing import Any

import torch
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn import Linear4bit
from torch import Tensor
from torch.nn.functional import linear
from transformers import LlavaForConditionalGeneration

from llava_dvc import config

SPARE = 0.8  # share of the free memory that activations may take


class Unpacked(Linear4bit):  # type: ignore[misc]
    """A 4-bit layer that keeps its weights in 16 bits beside the packed ones: the same numbers,
    without unpacking them in every pass.
    """

    unpacked: Tensor

    def forward(self, x: Tensor) -> Tensor:
        weight = self.unpacked
        return linear(x.to(weight.dtype), weight, self.bias).to(x.dtype)


def unpack(model: LlavaForConditionalGeneration) -> None:
    """Turn every 4-bit layer into an Unpacked one; takes four times the packed weights' memory."""
    for module in model.modules():
        if isinstance(module, Linear4bit):
            weight = dequantize_4bit(module.weight.data, module.weight.quant_state)
            # An attribute, not a buffer: it belongs to no state dict and is never sent about.
            module.unpacked = weight.to(module.compute_dtype)
            module.__class__ = Unpacked


def run_tower_without_graph(model: LlavaForConditionalGeneration) -> None:
    """Run the frozen vision tower without a graph.

    With checkpointing TRL makes every input require a gradient, and backward would go through the
    whole tower for nothing.
    """
    tower = model.model.vision_tower
    tower.forward = torch.no_grad()(tower.forward)


def trust_image_tokens(model: LlavaForConditionalGeneration) -> None:
    """Do not count the image tokens of every batch on the device, which would be waited for:
    `preflight` has counted them.
    """
    token = int(model.config.image_token_id)

    def places(input_ids: Tensor, **_: Any) -> Tensor:
        return input_ids.eq(token).unsqueeze(-1)

    model.model.get_placeholder_mask = places


def compile_layers(model: LlavaForConditionalGeneration, backend: str = "inductor") -> None:
    """Compile the language model's layers: they are alike and share one compiled graph, so it takes
    seconds. All batches must have one shape.
    """
    for layer in model.model.language_model.layers:
        layer.compile(dynamic=False, backend=backend)


def checkpoints(recipe: config.Train, model: LlavaForConditionalGeneration, tokens: int) -> bool:
    """Whether to recompute activations: as `train.checkpointing` says, or for `auto` when those of
    a batch of `tokens` would not fit into the free memory.
    """
    if recipe.checkpointing != "auto":
        return recipe.checkpointing
    if model.device.type != "cuda":
        return False
    free, _ = torch.cuda.mem_get_info(model.device)
    return activation_bytes(model.config.text_config, tokens) > SPARE * free


def activation_bytes(text: Any, tokens: int) -> int:
    """What backward needs of `tokens` tokens' activations, in 16 bits.

    A layer keeps about ten tensors of the hidden width and four of the inner one (measured on 7B:
    161 KiB a token and layer, 170 by this rule).
    """
    a_token = 2 * (10 * text.hidden_size + 4 * text.intermediate_size)
    return int(tokens * text.num_hidden_layers * a_token)
