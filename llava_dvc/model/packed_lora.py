"""LoRA in training on 4-bit weights that stay packed: layers with the same input as one product.

Each pass unpacks the weights of a product once, into memory that the next product uses again.
"""

from collections.abc import Sequence
from typing import Any

import torch
from bitsandbytes.functional import QuantState, dequantize_4bit, dequantize_blockwise
from torch import Tensor
from torch.nn.functional import linear

from llava_dvc.model.fused_layer import (
    Product,
    adapter_gradients,
    adapters_of,
    diagonal_blocks,
    split_rows,
)

BLOCK = 64
"""Weights with one scale: bitsandbytes' own number."""


def can_be_joined(layer: Any) -> bool:
    """Whether the weights of a 4-bit layer can follow those of others in one tensor."""
    state = layer.weight.quant_state
    whole = state.shape.numel() % BLOCK == 0
    return bool(whole and state.quant_type == "nf4" and state.blocksize == BLOCK)


class PackedLora(Product):
    """4-bit layers that read the same input, with adapters that learn.

    The layers' packed weights become views of one tensor. Their scales are no longer packed
    themselves: 9 % more memory. `sync_weights` copies the adapters into their matrices before every
    pass.
    """

    def __init__(self, layers: Sequence[Any]) -> None:
        super().__init__()
        self.lora_a, self.lora_b, self.scalings = adapters_of(layers)
        bases = [layer.get_base_layer() for layer in layers]
        self.packed, self.scales = _joined_weights(bases)
        rows, width = sum(base.out_features for base in bases), bases[0].in_features
        dtype = bases[0].compute_dtype
        self.down = self.scales.new_zeros(sum(map(len, self.lora_a)), width, dtype=dtype)
        self.up = self.scales.new_zeros(rows, len(self.down), dtype=dtype)
        self.own_a = split_rows(self.down, self.lora_a)
        self.own_b = diagonal_blocks(self.up, self.lora_b)

    def forward(self, x: Tensor) -> Tensor:
        """Takes `(tokens, width)`. Returns the concatenated outputs of the layers."""
        return PackedProduct.apply(  # type: ignore[no-any-return]
            x, self.down, self.up, self.packed, self.scales, self.scalings,
            *self.lora_a, *self.lora_b,
        )  # fmt: skip


class PackedProduct(torch.autograd.Function):
    """W x + s B A x, where W is packed.

    The adapters' tensors are arguments only so that autograd returns their gradients.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, down: Tensor, up: Tensor, packed: Tensor, scales: Tensor, *others: Any
    ) -> Tensor:
        ctx.scalings, *lora = others
        low = linear(x, down)
        ctx.save_for_backward(x, low, down, up, packed, scales, *lora)
        return unpack_and_multiply(x, packed, scales, low, up, False)  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> Any:
        [gradient] = outputs
        x, low, down, up, packed, scales, *lora = ctx.saved_tensors
        of_low = gradient @ up
        of_x = unpack_and_multiply(gradient, packed, scales, of_low, down.t(), True)
        of_lora = adapter_gradients(of_low.T @ x, gradient.T @ low, lora, ctx.scalings)
        return of_x, *[None] * 5, *of_lora


@torch.library.custom_op("llava_dvc::unpack_and_multiply", mutates_args=())
def unpack_and_multiply(
    x: Tensor, packed: Tensor, scales: Tensor, low: Tensor, up: Tensor, back: bool
) -> Tensor:
    """`x` times the transposed 4-bit weight, or times the weight if `back`; plus `low` times the
    transposed `up`.

    A custom operator: the unpacked weight is gone when it returns, and the large product adds to
    the small one in place.
    """
    shape = torch.Size((x.shape[1], len(up)) if back else (len(up), x.shape[1]))
    state = QuantState(scales, shape, dtype=x.dtype, blocksize=BLOCK, quant_type="nf4")
    weight = dequantize_4bit(packed, state)
    return (low @ up.t()).addmm_(x, weight if back else weight.t())


@unpack_and_multiply.register_fake
def _(x: Tensor, packed: Tensor, scales: Tensor, low: Tensor, up: Tensor, back: bool) -> Tensor:
    return low.new_empty(len(x), len(up))


def _joined_weights(layers: Sequence[Any]) -> tuple[Tensor, Tensor]:
    """The packed weights of 4-bit layers, one after the other, and the scales of their blocks. The
    layers then have views of both.
    """
    packed = torch.cat([layer.weight.data for layer in layers])
    scales = torch.cat([_unpacked_scales(layer.weight.quant_state) for layer in layers])
    weights = [layer.weight for layer in layers]
    for weight, own in zip(weights, split_rows(packed, weights), strict=True):
        weight.data = own
    states = [weight.quant_state for weight in weights]
    sizes = [state.shape.numel() // BLOCK for state in states]
    for state, own in zip(states, torch.split(scales, sizes), strict=True):
        state.absmax, state.nested, state.offset, state.state2 = own, False, None, None
    return packed, scales


def _unpacked_scales(state: Any) -> Tensor:
    scales: Tensor = state.absmax
    if state.nested:
        scales = dequantize_blockwise(state.absmax, state.state2) + state.offset
    return scales
