"""Matrix products in FP8: e4m3 numbers (arXiv 2209.05433), with a float32 scale for each row.

On a GPU its FP8 units multiply, and the product is rounded to bfloat16. On a CPU plain PyTorch
multiplies the same rounded numbers in float32.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

E4M3 = torch.float8_e4m3fn
LARGEST = 448.0
"""The largest number of e4m3."""
WIDE = 8192
"""Outputs of a product from which a kernel of our own adds the adapter faster than cuBLAS."""
FLOOR = 1e-30
"""The least maximum of a row. Rows of zeros stay zeros. Without it they would become 0 / 0."""


def quantize_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Returns `x` in e4m3, and the scales of its rows, `(rows, 1)`. Their product is about `x`."""
    scale = x.abs().amax(dim=-1, keepdim=True).float().clamp_min(FLOOR) / LARGEST
    return (x.float() * scale.reciprocal()).to(E4M3), scale


def multiply_rows(
    x: Tensor, x_scale: Tensor, weight: Tensor, weight_scale: Tensor, dtype: torch.dtype
) -> Tensor:
    """The product of `x` and the transposed `weight` in `dtype`. Both are e4m3 with their scales.

    Takes `(tokens, width)` and `(outputs, width)`. Returns `(tokens, outputs)`.
    """
    if x.is_cuda:
        product = torch._scaled_mm(
            x,
            weight.t(),
            scale_a=x_scale,
            scale_b=weight_scale.t(),
            out_dtype=torch.bfloat16,
            use_fast_accum=True,
        )
    else:
        product = linear(x.float(), weight.float()).float() * x_scale * weight_scale.t()
    return product.to(dtype)


def transposed_copy(weight: Tensor) -> Tensor:
    """A copy in the layout of the backward pass. GPUs multiply FP8 only along rows of both."""
    return weight.view(torch.uint8).t().contiguous().view(E4M3)


def quantize_gradient(gradient: Tensor, weight_scale: Tensor) -> tuple[Tensor, Tensor]:
    """The gradient of a product's output, `(tokens, outputs)`, in e4m3 with a scale for each token.

    Before rounding it is multiplied by the scales of the weight's rows. So its product with the
    weight's own e4m3 numbers is the gradient of the input, and no weight is rounded again.
    """
    return quantize_rows(gradient.float() * weight_scale.t())


class Fp8Product(torch.autograd.Function):
    """`x` times the transposed weight. The gradient of `x` is an FP8 product too.

    The weight is frozen. `transposed` is its `transposed_copy`, or None to make one in each pass.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, scale: Tensor, transposed: Tensor | None
    ) -> Tensor:
        ctx.save_for_backward(weight, scale, transposed)
        return multiply_rows(*quantize_rows(x), weight, scale, x.dtype)

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> Any:
        [gradient] = outputs
        weight, scale, transposed = ctx.saved_tensors
        if transposed is None:
            transposed = transposed_copy(weight)
        ones = scale.new_ones(len(transposed), 1)
        rows = quantize_gradient(gradient, scale)
        return multiply_rows(*rows, transposed, ones, gradient.dtype), None, None, None


@torch.library.custom_op("llava_dvc::fp8_product", mutates_args=())
def add_low_rank(
    x: Tensor, x_scale: Tensor, weight: Tensor, weight_scale: Tensor, low: Tensor, up: Tensor,
    blocks: int,
) -> Tensor:  # fmt: skip
    """The product of `multiply_rows` plus `low` times the transposed `up`, in the dtype of `low`.
    `up` has this many equal blocks on its diagonal, and zeros elsewhere; or there is one block.

    A custom operator: it adds in place, where torch.compile would make a copy.
    """
    product = multiply_rows(x, x_scale, weight, weight_scale, low.dtype)
    if x.is_cuda and len(weight) >= WIDE and low.shape[1]:
        return kernels().add_low_rank(product, low, up, blocks)  # type: ignore[no-any-return]
    return product.addmm_(low, up.t())


@add_low_rank.register_fake
def _(
    x: Tensor, x_scale: Tensor, weight: Tensor, weight_scale: Tensor, low: Tensor, up: Tensor,
    blocks: int,
) -> Tensor:  # fmt: skip
    return low.new_empty(len(x), len(weight))


@torch.library.custom_op("llava_dvc::gated_gradient", mutates_args=())
def gated_gradient(
    gate_up: Tensor, of_hidden: Tensor, weight_scale: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradient of `gate_up`, `(tokens, 2 * width)`, from that of silu(gate) * up, `(tokens,
    width)`; and what `quantize_gradient` makes of it.
    """
    if gate_up.is_cuda:
        return kernels().gated_gradient(gate_up, of_hidden, weight_scale, FLOOR)  # type: ignore[no-any-return]
    gate, up = gate_up.float().chunk(2, dim=-1)
    share, hidden = gate.sigmoid(), of_hidden.float()
    of_gate = hidden * up * share * (1 + gate * (1 - share))
    gradient = torch.cat([of_gate, hidden * gate * share], dim=-1).to(gate_up.dtype)
    return gradient, *quantize_gradient(gradient, weight_scale)


@gated_gradient.register_fake
def _(gate_up: Tensor, of_hidden: Tensor, weight_scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    scale = weight_scale.new_empty(len(gate_up), 1)
    return torch.empty_like(gate_up), torch.empty_like(gate_up, dtype=E4M3), scale


# A flexible layout: else torch.compile would copy the gradients into another order.
@torch.library.custom_op(
    "llava_dvc::rotated_gradient", mutates_args=(), tags=(torch.Tag.flexible_layout,)
)
def rotated_gradient(
    query: Tensor, key: Tensor, value: Tensor, cos: Tensor, sin: Tensor, weight_scale: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradient of query, key and value side by side, `(tokens, width)`, before they were split
    into heads and rotated; and what `quantize_gradient` makes of it.

    Takes the gradients of the heads, each `(rows, heads, tokens, head width)`.
    """
    if query.is_cuda:
        return kernels().rotated_gradient(  # type: ignore[no-any-return]
            (query, key, value), (cos, sin), weight_scale, FLOOR
        )
    still = torch.ones_like(cos), torch.zeros_like(sin)
    turned = [unrotate(query, cos, sin), unrotate(key, cos, sin), unrotate(value, *still)]
    gradient = torch.cat(turned, dim=1).transpose(1, 2).flatten(2).flatten(0, 1).to(query.dtype)
    return gradient, *quantize_gradient(gradient, weight_scale)


@rotated_gradient.register_fake
def _(
    query: Tensor, key: Tensor, value: Tensor, cos: Tensor, sin: Tensor, weight_scale: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    gradient = query.new_empty(query.shape[0] * query.shape[2], len(weight_scale))
    rounded = torch.empty_like(gradient, dtype=E4M3)
    return gradient, rounded, weight_scale.new_empty(len(gradient), 1)


def unrotate(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """The gradient of heads before the rotary embedding, in float32."""
    first, second = heads.float().chunk(2, dim=-1)
    return heads * cos[:, None] + torch.cat([second, -first], dim=-1) * sin[:, None]


def kernels() -> Any:
    """The module of Triton kernels. Only a machine with a GPU must have Triton."""
    from llava_dvc.model.fp8 import kernels

    return kernels
