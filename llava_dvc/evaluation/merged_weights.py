"""Adapters folded into their layers' weights, on a GPU; layers that read the same input are one
product.

To count, W + s B A is one matrix. Rounded to the nearest, it would be W again wherever an adapter
has learnt less than half of W's last bit, as an adapter of a small learning rate has almost
everywhere, although all of it together changes the answer. So it is rounded up or down at random,
in proportion to what is nearer: then the sum over many weights is right.

To train, W x + s B A x is [W, s B] times [x; A x], and so are the gradients: of x and A x in one
product. Nothing is rounded that was not before.
"""

from collections.abc import Sequence
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers.models.llava.modeling_llava import LlavaModel

from llava_dvc.model.fused_layer import FoldedLayer
from llava_dvc.model.model_patches import blocks_read, trust_image_tokens, unpacked_weight


class Merged(nn.Module):
    """Linear layers without bias that read the same input, with their adapters in their weights."""

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.weight = torch.cat(list(map(merged_weight, layers)))

    def forward(self, x: Tensor) -> Tensor:
        """`(tokens, width)` to the layers' outputs, one behind the other."""
        return linear(x, self.weight)

    def onto(self, total: Tensor, x: Tensor) -> Tensor:
        """`total` itself, the product added to it in place."""
        add_product(total, x, self.weight)
        return total


@torch.library.custom_op("llava_dvc::add_product", mutates_args=("total",))
def add_product(total: Tensor, x: Tensor, weight: Tensor) -> None:
    """Add x W^T to `total`, in place: a compiler would copy `total` first."""
    total.addmm_(x, weight.T)


@add_product.register_fake
def _(total: Tensor, x: Tensor, weight: Tensor) -> None:
    pass


@torch.no_grad()
def merged_weight(layer: Any) -> Tensor:
    """The layer's weight `(out, in)`, its adapter added, in the number format it computes in."""
    base = layer.get_base_layer() if isinstance(layer, LoraLayer) else layer
    weight = unpacked_weight(base)
    if not isinstance(layer, LoraLayer) or layer.merged:
        return weight
    [name] = layer.active_adapters
    up, down = layer.lora_B[name].weight, layer.lora_A[name].weight
    whole = weight.float() + layer.scaling[name] * (up.float() @ down.float())
    if name in layer.lora_magnitude_vector:  # DoRA: every output has a length of its own
        magnitude = layer.lora_magnitude_vector[name].weight
        whole *= (magnitude / whole.norm(dim=1))[:, None]
    return dithered(whole, weight.dtype)


def dithered(exact: Tensor, dtype: torch.dtype) -> Tensor:
    """Float32 in `dtype`, every normal number rounded up or down at random, on average to itself;
    always alike on one kind of device.

    Stochastic rounding, as in Gupta et al., arXiv 1502.02551: random bits are added to those that
    `dtype` has no room for, and carried.
    """
    bits = exact.view(torch.int32)
    seed = int(bits.sum())  # every matrix has noise of its own
    dropped = int(torch.finfo(dtype).eps / torch.finfo(exact.dtype).eps)
    source = torch.Generator(exact.device).manual_seed(seed)
    noise = torch.randint(
        dropped, exact.shape, generator=source, device=exact.device, dtype=torch.int32
    )
    return ((bits + noise) & -dropped).view(exact.dtype).to(dtype)


def fold_and_compile(model: Any, backend: str = "inductor") -> None:
    """Merge the language model's adapters, unpack it, and compile its layers and the tower's
    blocks, for counting alone: the layers keep nothing to train or save, and write over what they
    are given. The parts of all layers share one compiled graph for every shape.
    """
    llava = next(module for module in model.modules() if isinstance(module, LlavaModel))
    trust_image_tokens(llava)
    parts: list[nn.Module] = list(llava.vision_tower.encoder.layers[: blocks_read(llava.config)])
    layers = llava.language_model.layers
    for index, layer in enumerate(layers):
        layers[index] = folded = FoldedLayer(layer, Merged)
        parts += [folded.before, folded.after]
    for part in parts:
        part.compile(dynamic=False, backend=backend)
