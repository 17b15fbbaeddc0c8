"""FP8 layers that read the same input as one product, with their adapters beside it in 16 bits.

An adapter is never added to FP8 weights: its changes are far below their last bit.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor
from torch.nn.functional import linear

from llava_dvc.model.fp8.linear import Fp8Linear
from llava_dvc.model.fp8.products import (
    E4M3,
    add_low_rank,
    gated_gradient,
    quantize_gradient,
    quantize_rows,
    rotated_gradient,
    transposed_copy,
)
from llava_dvc.model.fused_layer import (
    Heads,
    Product,
    adapter_gradients,
    adapters_of,
    copy_adapters,
    diagonal_blocks,
    gated,
    rotated,
    split_rows,
)


def is_fp8(layer: Any) -> bool:
    """Whether a linear layer, with or without an adapter, has FP8 weights."""
    return isinstance(layer.get_base_layer() if isinstance(layer, LoraLayer) else layer, Fp8Linear)


class FusedFp8(Product):
    """FP8 layers that read the same input, to count with. Adapters are copied once, when made.

    The layers' weights become views of one matrix.
    """

    def __init__(self, layers: Sequence[Any]) -> None:
        super().__init__()
        bases = [b.get_base_layer() if isinstance(b, LoraLayer) else b for b in layers]
        weights = [base.weight for base in bases]
        weight = torch.cat([one.data for one in weights])
        for one, own in zip(weights, split_rows(weight, weights), strict=True):
            one.data = own
        self.weight, self.scale = weight.view(E4M3), torch.cat([base.scale for base in bases])
        lora_a, lora_b, scalings = adapters_of(layers)
        (rows, width), dtype = weight.shape, bases[0].compute_dtype
        self.down = weight.new_zeros(sum(map(len, lora_a)), width, dtype=dtype)
        self.up = weight.new_zeros(rows, len(self.down), dtype=dtype)
        self.own_a, self.own_b = split_rows(self.down, lora_a), diagonal_blocks(self.up, lora_b)
        self.blocks = len(lora_b) if len({part.shape for part in lora_b}) == 1 else 1
        copy_adapters(self.own_a, self.own_b, lora_a, lora_b, scalings)

    def forward(self, x: Tensor) -> Tensor:
        """Takes `(tokens, width)`. Returns the concatenated outputs of the layers."""
        low = linear(x, self.down)
        rows = quantize_rows(x)
        return add_low_rank(*rows, self.weight, self.scale, low, self.up, self.blocks)  # type: ignore[no-any-return]


class FusedFp8Lora(FusedFp8):
    """FP8 layers that read the same input, with adapters that learn.

    `sync_weights` copies the adapters into their matrices before every pass.
    """

    def __init__(self, layers: Sequence[Any]) -> None:
        super().__init__(layers)
        self.lora_a, self.lora_b, self.scalings = adapters_of(layers)
        self.ones = self.scale.new_ones(self.weight.shape[1], 1)
        self.transposed: Tensor | None = None

    def keep_transposed(self) -> None:
        """Keeps a transposed copy of the weights. Else each backward pass makes one."""
        self.transposed = transposed_copy(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Takes `(tokens, width)`. Returns the concatenated outputs of the layers."""
        return FusedFp8Product.apply(*self._inputs(x))  # type: ignore[no-any-return]

    def rotated(
        self, hidden: Tensor, rotation: tuple[Tensor, Tensor], heads: Heads
    ) -> tuple[Tensor, Tensor, Tensor]:
        x, *others = self._inputs(hidden.flatten(0, 1))
        shape = hidden.shape[:2]
        return RotatedFp8Product.apply(x, *rotation, heads, shape, *others)  # type: ignore[no-any-return]

    def gated(self, x: Tensor) -> Tensor:
        return GatedFp8Product.apply(*self._inputs(x))  # type: ignore[no-any-return]

    def _inputs(self, x: Tensor) -> list[Any]:
        frozen = Frozen(
            self.weight, self.scale, self.transposed, self.ones, self.scalings, self.blocks
        )
        return [x, self.down, self.up, *frozen, *self.lora_a, *self.lora_b]


class Frozen(NamedTuple):
    """What a product needs beside its input and its adapters' matrices."""

    weight: Tensor
    scale: Tensor
    transposed: Tensor | None
    ones: Tensor
    """The scales of `transposed`. Made once: filling them takes a kernel."""
    scalings: list[float]
    blocks: int
    """On the diagonal of the adapters' second matrix."""


class FusedFp8Product(torch.autograd.Function):
    """An FP8 product plus an adapter in 16 bits. The gradient of the input is an FP8 product too.

    The adapters' tensors are arguments only so that autograd returns their gradients.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, *others: Any) -> Tensor:
        product, saved = forward_product(ctx, x, *others)
        ctx.save_for_backward(*saved)
        return product

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> Any:
        [gradient] = outputs
        scale = ctx.saved_tensors[4]
        rows = quantize_gradient(gradient, scale)
        return backward_product(ctx, ctx.saved_tensors, gradient, rows)


class RotatedFp8Product(torch.autograd.Function):
    """Query, key and value, of an FP8 product of all three. One kernel makes its gradient from
    those of the heads, and rounds it.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, cos: Tensor, sin: Tensor, heads: Heads, shape: Any, *others: Any
    ) -> tuple[Tensor, Tensor, Tensor]:
        product, saved = forward_product(ctx, x, *others)
        ctx.save_for_backward(cos, sin, *saved)
        return rotated(product.view(*shape, -1), (cos, sin), heads)

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> Any:
        cos, sin, *saved = ctx.saved_tensors
        gradient, *rows = rotated_gradient(*outputs, cos, sin, saved[4])
        of_x, *others = backward_product(ctx, saved, gradient, rows)
        return of_x, *[None] * 4, *others


class GatedFp8Product(torch.autograd.Function):
    """silu(gate) * up of an FP8 product [gate, up]. One kernel makes its gradient and rounds it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *others: Any) -> Tensor:
        product, saved = forward_product(ctx, x, *others)
        ctx.save_for_backward(product, *saved)
        return gated(product)

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> Any:
        product, *saved = ctx.saved_tensors
        gradient, *rows = gated_gradient(product, outputs[0].contiguous(), saved[4])
        return backward_product(ctx, saved, gradient, rows)


def forward_product(
    ctx: Any, x: Tensor, down: Tensor, up: Tensor, *others: Any
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The product with its adapters, and what `backward_product` needs of the tensors.

    `others` are the values of `Frozen`, then the adapters' tensors.
    """
    frozen, lora = Frozen(*others[:6]), others[6:]
    low = linear(x, down)
    rows = quantize_rows(x)
    product = add_low_rank(*rows, frozen.weight, frozen.scale, low, up, frozen.blocks)
    ctx.scalings, ctx.copied = frozen.scalings, frozen.transposed is not None
    weight = frozen.weight if frozen.transposed is None else frozen.transposed
    return product, (x, low, down, up, frozen.scale, weight, frozen.ones, *lora)


def backward_product(
    ctx: Any, saved: Sequence[Tensor], gradient: Tensor, rows: Sequence[Tensor]
) -> Any:
    """The gradients of all arguments, from that of the product and the same in e4m3 with scales."""
    x, low, down, up, _, weight, ones, *lora = saved
    transposed = weight if ctx.copied else transposed_copy(weight)
    of_low = gradient @ up
    of_x = add_low_rank(*rows, transposed, ones, of_low, down.t(), 1)
    of_lora = adapter_gradients(of_low.T @ x, gradient.T @ low, lora, ctx.scalings)
    return of_x, *[None] * 8, *of_lora
