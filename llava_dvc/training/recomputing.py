"""What a training step keeps in memory: `train.checkpointing`.

A layer keeps its activations for the backward pass. A recomputed layer keeps only its input, and
the backward pass computes the activations again: less memory, more time.
"""

from functools import partial
from math import ceil
from typing import Any, NamedTuple

from accelerate.utils import gather_object
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import LlavaForConditionalGeneration

from llava_dvc import config, errors
from llava_dvc.model.fp8.linear import Fp8Linear
from llava_dvc.model.fused_lora import keep_copies
from llava_dvc.model.model_patches import blocks_read, free_bytes
from llava_dvc.training.speed import can_be_recorded

FREE_SHARE = 0.8
"""At most this share of the free memory is planned. The rest is for what lives shorter than a
layer.
"""
RECORDING_BYTES = 4.5 * 2**30
"""At least this much is left unplanned if the step will be recorded. On 7B in 22 GiB a recording
needed 3 GiB more than a plain step: gaps between its tensors, and between those that were there
before it.
"""
TRAINED_BYTES = {"adamw": 12, "adamw_8bit": 6}
"""Of each adapter weight: its gradient and the optimizer's two moments."""


def fit_into_memory(
    train: config.Train,
    adapter: config.Adapter,
    model: LlavaForConditionalGeneration,
    rows: int,
    length: int,
) -> int:
    """Makes a step keep what `plan_memory` plans. Returns the number of layers to recompute."""
    spare = RECORDING_BYTES if can_be_recorded(train, adapter, model) else 0
    plan = plan_memory(train, model, rows, length, spare)
    recompute_layers(model, plan.recomputed, dropout=adapter.dropout > 0)
    if plan.copies:
        keep_copies(model.model)
    return plan.recomputed


class Plan(NamedTuple):
    """What a training step keeps in memory."""

    recomputed: int
    """Layers of the language model that the backward pass computes again."""
    copies: bool
    """Whether FP8 weights, if there are any, are also kept transposed."""


def plan_memory(
    train: config.Train,
    model: LlavaForConditionalGeneration,
    rows: int,
    length: int,
    spare: float = 0,
) -> Plan:
    """What a step keeps, as `train.checkpointing` says.

    `auto` recomputes only what a batch of `rows` sequences of `length` tokens has no GPU memory
    for, on the fullest of the cards, and leaves `spare` bytes. It keeps copies only where nothing
    is recomputed.
    Raises UserError when the setting is larger than the number of layers.
    """
    layers = model.config.text_config.num_hidden_layers
    if isinstance(train.checkpointing, bool):
        return Plan(layers, False) if train.checkpointing else Plan(0, True)
    if train.checkpointing != "auto":
        if train.checkpointing > layers:
            raise errors.too_many_layers(train.checkpointing, layers)
        return Plan(train.checkpointing, False)
    if model.device.type != "cuda":
        return Plan(0, False)
    text, size, tokens = model.config.text_config, model.dtype.itemsize, rows * length
    kept = tokens * size * layer_width(text, train.compile)
    free = free_bytes(model.device)
    room = min(FREE_SHARE * free, free - spare) - other_bytes(train, model, rows)
    number = fewest_recomputed(
        layers, kept=kept, recomputed=tokens * size * text.hidden_size, room=room
    )
    plans = gather_object([Plan(number, layers * kept + fp8_bytes(model) <= room)])
    return Plan(max(plan.recomputed for plan in plans), all(plan.copies for plan in plans))


def fp8_bytes(model: LlavaForConditionalGeneration) -> int:
    """Bytes of all FP8 weights."""
    found = (m for m in model.modules() if isinstance(m, Fp8Linear))
    return sum(layer.weight.numel() for layer in found)


def fewest_recomputed(layers: int, *, kept: int, recomputed: int, room: float) -> int:
    """The fewest of `layers` to recompute so that all fit into `room` bytes. A layer takes `kept`
    bytes, or `recomputed` bytes if it is. All of them, if even then they do not fit.
    """
    excess = layers * kept - room
    return min(layers, max(0, ceil(excess / (kept - recomputed))))


def layer_width(layer: Any, compiled: bool) -> int:
    """Numbers that a layer keeps of a token. `layer` is a configuration with the layer's widths.

    On 7B in 16 bits 161 KiB were measured, and 130 KiB compiled follow from the peaks in
    docs/gpu.md. This rule says 166 and 136.
    """
    if compiled:
        return int(9 * layer.hidden_size + 3 * layer.intermediate_size)
    return int(10 * layer.hidden_size + 4 * layer.intermediate_size)


def other_bytes(train: config.Train, model: LlavaForConditionalGeneration, rows: int) -> int:
    """Bytes that a step needs beside the language model's activations: for the adapter, and for
    the activations of a tower that learns.
    """
    learnt = sum(p.numel() for p in model.parameters() if p.requires_grad)
    needed = learnt * TRAINED_BYTES[train.optimizer]
    if _learns(model.model.vision_tower):
        vision = model.config.vision_config
        tokens = rows * ((vision.image_size // vision.patch_size) ** 2 + 1)
        width = layer_width(vision, train.compile)
        needed += blocks_read(model.config) * tokens * width * model.dtype.itemsize
    return int(needed)


def recompute_layers(
    model: LlavaForConditionalGeneration, number: int, dropout: bool = True
) -> None:
    """Recomputes the first `number` layers of the language model in the backward pass; with all
    of them also the blocks of a tower that learns.

    Without `dropout` no random numbers are drawn, and their state is not kept. The first ones: when
    their turn comes, the backward pass has freed the others' activations.
    Sets transformers' flags, but not through the Trainer: that makes every input require a
    gradient, and backward then goes through the whole tower for nothing.
    """
    language, tower = model.model.language_model.layers, model.model.vision_tower
    blocks = list(tower.encoder.layers)
    everything = number == len(language) and _learns(tower)
    function = partial(checkpoint, use_reentrant=False, preserve_rng_state=dropout)
    flags = [index < number for index in range(len(language))] + [everything] * len(blocks)
    for layer, flag in zip([*language, *blocks], flags, strict=True):
        layer.gradient_checkpointing = flag
        layer._gradient_checkpointing_func = function


def _learns(module: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters())
