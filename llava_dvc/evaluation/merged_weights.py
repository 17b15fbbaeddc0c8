"""Merges the adapter into the weights for fast counting: W + s B A.

With a small learning rate most weights change by less than half of their last bit. Rounding to the
nearest would undo these changes, although together they change the answer. So we use stochastic
rounding: up or down at random, the nearer value with the higher probability.
"""

from collections.abc import Sequence
from typing import Any

import torch
from bitsandbytes.nn import Linear4bit
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers.models.llava.modeling_llava import LlavaModel

from llava_dvc.model.fp8.fused import FusedFp8, is_fp8
from llava_dvc.model.fused_layer import FusedLayer, Product
from llava_dvc.model.model_patches import (
    UnpackedLinear4bit,
    blocks_read,
    trust_image_tokens,
    unpacked_weight,
)


class MergedLinear(Product):
    """Linear layers without bias that read the same input, with their adapters in their weights."""

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.weight = torch.cat(list(map(merged_weight, layers)))

    def forward(self, x: Tensor) -> Tensor:
        """Takes `(tokens, width)`. Returns the concatenated outputs of the layers."""
        return linear(x, self.weight)

    def add_to(self, total: Tensor, x: Tensor) -> Tensor:
        """Adds the outputs for `x` to `total` in place, and returns it."""
        add_product(total, x, self.weight)
        return total


def counted_product(layers: Sequence[nn.Module]) -> MergedLinear | FusedFp8:
    """The product of layers that read the same input, to count with. FP8 layers are not merged:
    an adapter's changes are far below their last bit.
    """
    return FusedFp8(layers) if is_fp8(layers[0]) else MergedLinear(layers)


@torch.library.custom_op("llava_dvc::add_product", mutates_args=("total",))
def add_product(total: Tensor, x: Tensor, weight: Tensor) -> None:
    """Adds x W^T to `total` in place. A custom operator: torch.compile would copy `total`."""
    total.addmm_(x, weight.T)


@add_product.register_fake
def _(total: Tensor, x: Tensor, weight: Tensor) -> None:
    pass


@torch.no_grad()
def merged_weight(layer: Any) -> Tensor:
    """The layer's weight plus its adapter, `(out, in)`, in the dtype it computes in."""
    base = layer.get_base_layer() if isinstance(layer, LoraLayer) else layer
    weight = unpacked_weight(base)
    if not isinstance(layer, LoraLayer) or layer.merged:
        return weight
    [name] = layer.active_adapters
    lora_b, lora_a = layer.lora_B[name].weight, layer.lora_A[name].weight
    whole = weight.float() + layer.scaling[name] * (lora_b.float() @ lora_a.float())
    if name in layer.lora_magnitude_vector:  # DoRA: each output row has its own learned norm
        magnitude = layer.lora_magnitude_vector[name].weight
        whole *= (magnitude / whole.norm(dim=1))[:, None]
    return round_at_random(whole, weight.dtype)


def round_at_random(exact: Tensor, dtype: torch.dtype) -> Tensor:
    """Rounds float32 to `dtype`, up or down at random. The average is exact, except of subnormals.

    Stochastic rounding (Gupta et al., arXiv 1502.02551): adds random bits below the last kept bit,
    then cuts. A carry rounds up. The result is always the same on one kind of device.
    """
    bits = exact.view(torch.int32)
    seed = int(bits.sum())  # each matrix gets other noise
    dropped = int(torch.finfo(dtype).eps / torch.finfo(exact.dtype).eps)
    source = torch.Generator(exact.device).manual_seed(seed)
    noise = torch.randint(
        dropped, exact.shape, generator=source, device=exact.device, dtype=torch.int32
    )
    return ((bits + noise) & -dropped).view(exact.dtype).to(dtype)


def bytes_to_merge(model: nn.Module) -> int:
    """Memory that `merge_layers` takes in addition: 4-bit weights become 16-bit ones."""
    packed = [
        layer
        for layer in model.modules()
        if isinstance(layer, Linear4bit) and not isinstance(layer, UnpackedLinear4bit)
    ]
    return sum(
        layer.out_features * layer.in_features * layer.compute_dtype.itemsize - layer.weight.nbytes
        for layer in packed
    )


def merge_layers(model: Any) -> list[nn.Module]:
    """Prepares `model` for counting alone: merges the adapters and unpacks the layers.
    Adapters of FP8 layers stay beside them.

    The model cannot be trained or saved afterwards. Its layers overwrite their input. Returns the
    parts that take most of the time; those of one kind can share one compiled graph.
    """
    trust_image_tokens(model)
    llava = next(module for module in model.modules() if isinstance(module, LlavaModel))
    parts: list[nn.Module] = list(llava.vision_tower.encoder.layers[: blocks_read(llava.config)])
    layers = llava.language_model.layers
    for index, layer in enumerate(layers):
        layers[index] = fused = FusedLayer(layer, counted_product)
        parts += [fused.before, fused.after]
    return parts


def merge_and_compile(model: Any, backend: str = "inductor") -> None:
    """Merges the layers as `merge_layers` does, and compiles them, for one batch size.

    Parts of one kind share one compiled graph per input shape.
    """
    for part in merge_layers(model):
        part.compile(dynamic=False, backend=backend)
