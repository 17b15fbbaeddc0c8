"""Counting with the adapter added into the weights, W + s B A.

Rounding to the nearest would give W again almost everywhere: a small learning rate teaches an
adapter less than half of W's last bit, although all of it together changes the answer. So the sum
is rounded up or down at random, in proportion to the distance. A sum over many weights is then
right on average.
"""

from collections.abc import Sequence
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers.models.llava.modeling_llava import LlavaModel

from llava_dvc.model.fused_layer import FusedLayer
from llava_dvc.model.model_patches import blocks_read, trust_image_tokens
from llava_dvc.model.unpacked_linear import unpacked_weight


class MergedLinear(nn.Module):
    """Linear layers without bias that read the same input, with their adapters in their weights."""

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.weight = torch.cat(list(map(merged_weight, layers)))

    def forward(self, x: Tensor) -> Tensor:
        """`(tokens, width)` to the layers' outputs, concatenated."""
        return linear(x, self.weight)

    def add_to(self, total: Tensor, x: Tensor) -> Tensor:
        """Adds the outputs for `x` to `total` in place, and returns it."""
        add_product(total, x, self.weight)
        return total


@torch.library.custom_op("llava_dvc::add_product", mutates_args=("total",))
def add_product(total: Tensor, x: Tensor, weight: Tensor) -> None:
    """Adds x W^T to `total` in place. An operator of its own: a compiler would copy `total`."""
    total.addmm_(x, weight.T)


@add_product.register_fake
def _(total: Tensor, x: Tensor, weight: Tensor) -> None:
    pass


@torch.no_grad()
def merged_weight(layer: Any) -> Tensor:
    """The layer's weight plus its adapter, `(out, in)`, in the number format it computes in."""
    base = layer.get_base_layer() if isinstance(layer, LoraLayer) else layer
    weight = unpacked_weight(base)
    if not isinstance(layer, LoraLayer) or layer.merged:
        return weight
    [name] = layer.active_adapters
    lora_b, lora_a = layer.lora_B[name].weight, layer.lora_A[name].weight
    whole = weight.float() + layer.scaling[name] * (lora_b.float() @ lora_a.float())
    if name in layer.lora_magnitude_vector:  # DoRA: every output has a length of its own
        magnitude = layer.lora_magnitude_vector[name].weight
        whole *= (magnitude / whole.norm(dim=1))[:, None]
    return round_at_random(whole, weight.dtype)


def round_at_random(exact: Tensor, dtype: torch.dtype) -> Tensor:
    """Float32 numbers in `dtype`, each normal number rounded up or down, right on average.

    Stochastic rounding (Gupta et al., arXiv 1502.02551): adds random bits to those that `dtype`
    has no room for, and carries. One kind of device always gives the same result.
    """
    bits = exact.view(torch.int32)
    seed = int(bits.sum())  # every matrix has noise of its own
    dropped = int(torch.finfo(dtype).eps / torch.finfo(exact.dtype).eps)
    source = torch.Generator(exact.device).manual_seed(seed)
    noise = torch.randint(
        dropped, exact.shape, generator=source, device=exact.device, dtype=torch.int32
    )
    return ((bits + noise) & -dropped).view(exact.dtype).to(dtype)


def merge_and_compile(model: Any, backend: str = "inductor") -> None:
    """Prepares `model` for counting alone: merges the adapters, unpacks and compiles the layers.

    The layers keep nothing to train or save, and overwrite their input. The parts of all layers
    share one compiled graph for every shape.
    """
    trust_image_tokens(model)
    llava = next(module for module in model.modules() if isinstance(module, LlavaModel))
    parts: list[nn.Module] = list(llava.vision_tower.encoder.layers[: blocks_read(llava.config)])
    layers = llava.language_model.layers
    for index, layer in enumerate(layers):
        layers[index] = fused = FusedLayer(layer, MergedLinear)
        parts += [fused.before, fused.after]
    for part in parts:
        part.compile(dynamic=False, backend=backend)
