"""4-bit layers that keep their weights unpacked too."""

from typing import Any

from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn import Linear4bit
from torch import Tensor, nn
from torch.nn.functional import linear

from llava_dvc.model.model_patches import as_subclass


class UnpackedLinear4bit(Linear4bit):  # type: ignore[misc]
    """A 4-bit layer with a 16-bit copy of its weights: same numbers, no unpacking in each pass."""

    unpacked: Tensor

    def forward(self, x: Tensor) -> Tensor:
        weight = self.unpacked
        return linear(x.to(weight.dtype), weight, self.bias).to(x.dtype)


def unpack(model: nn.Module) -> None:
    """Swaps every 4-bit layer for an unpacked one. Takes four times the packed weights' memory."""
    packed = [(name, m) for name, m in model.named_modules() if isinstance(m, Linear4bit)]
    for name, layer in packed:
        swapped = as_subclass(layer, UnpackedLinear4bit)
        # An attribute, not a buffer: it is in no state dict, and DDP does not broadcast it.
        swapped.unpacked = unpacked_weight(layer)
        model.set_submodule(name, swapped)


def unpacked_weight(layer: Any) -> Tensor:
    """The layer's weight, `(out, in)`, in the dtype it computes in."""
    weight: Tensor = layer.weight.data
    if isinstance(layer, UnpackedLinear4bit):
        weight = layer.unpacked
    elif isinstance(layer, Linear4bit):
        weight = dequantize_4bit(weight, layer.weight.quant_state).to(layer.compute_dtype)
    return weight
