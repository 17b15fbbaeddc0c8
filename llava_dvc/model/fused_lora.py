"""LoRA in training: layers that read the same input become one product with their adapters.

`FusedLora` is the one for unpacked weights. It stores each adapter as extra columns of the weight:
W x + s B A x is the product of [W, s B] and [x; A x]. One product computes it after A x. In the
backward pass one product gives the gradients of x and of A x together. Nothing is rounded that
plain LoRA does not round.
"""

from collections.abc import Sequence
from typing import Any

import torch
from bitsandbytes.nn import Linear4bit
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers.models.llama.modeling_llama import LlamaDecoderLayer
from transformers.models.llava.modeling_llava import LlavaModel

from llava_dvc import errors
from llava_dvc.model.backbone import is_spread_by_fsdp
from llava_dvc.model.fp8.fused import FusedFp8Lora, is_fp8
from llava_dvc.model.fp8.linear import Fp8Linear
from llava_dvc.model.fused_layer import (
    FusedLayer,
    Product,
    adapter_gradients,
    adapters_of,
    copy_adapters,
    diagonal_blocks,
    split_rows,
)
from llava_dvc.model.model_patches import UnpackedLinear4bit, as_subclass
from llava_dvc.model.packed_lora import PackedLora, can_be_joined


class FusedLora(Product):
    """Unpacked layers that read the same input, with their trainable adapters in one matrix.

    `sync_weights` copies the adapters into the matrix before every pass. The layers' unpacked
    weights become views of it.
    """

    def __init__(self, layers: Sequence[Any]) -> None:
        super().__init__()
        self.lora_a, self.lora_b, self.scalings = adapters_of(layers)
        bases = [layer.get_base_layer() for layer in layers]
        weight = torch.cat([base.unpacked for base in bases])
        rows, width = weight.shape
        self.down = weight.new_zeros(sum(map(len, self.lora_a)), width)
        self.weight = torch.cat([weight, weight.new_zeros(rows, len(self.down))], dim=1)
        for base, own in zip(bases, split_rows(self.weight[:, :width], self.lora_b), strict=True):
            base.unpacked = own
        self.own_a = split_rows(self.down, self.lora_a)
        self.own_b = diagonal_blocks(self.weight[:, width:], self.lora_b)

    def forward(self, x: Tensor) -> Tensor:
        """Takes `(tokens, width)`. Returns the concatenated outputs of the layers."""
        return FusedProduct.apply(  # type: ignore[no-any-return]
            x, self.down, self.weight, self.scalings, *self.lora_a, *self.lora_b
        )


class FusedProduct(torch.autograd.Function):
    """[W, s B] times [x; A x].

    The adapters' tensors are arguments only so that autograd returns their gradients.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, down: Tensor, weight: Tensor, scalings: list[float], *lora: Tensor
    ) -> Tensor:
        # With 2-D inputs torch.compile writes A x directly into `both`.
        both = torch.cat([x, linear(x, down)], dim=1)
        ctx.save_for_backward(both, down, weight, *lora)
        ctx.scalings = scalings
        return linear(both, weight)

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> Any:
        [gradient] = outputs
        both, down, weight, *lora = ctx.saved_tensors
        width = down.shape[1]
        back = gradient @ weight
        x, low, of_x, of_low = both[:, :width], both[:, width:], back[:, :width], back[:, width:]
        of_lora = adapter_gradients(of_low.T @ x, gradient.T @ low, lora, ctx.scalings)
        return of_x + of_low @ down, *[None] * 3, *of_lora


TrainedProduct = FusedLora | PackedLora | FusedFp8Lora


class FusedDecoderLayer(LlamaDecoderLayer):  # type: ignore[misc]
    """A decoder layer whose forward pass a FusedLayer does. Its parameters keep their names."""

    fused: tuple[FusedLayer]  # in a tuple: its modules are not registered a second time

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.fused[0](*args, **kwargs)


def trained_product(layers: Sequence[Any]) -> TrainedProduct:
    """The product of adapted layers that read the same input."""
    if is_fp8(layers[0]):
        return FusedFp8Lora(layers)
    unpacked = isinstance(layers[0].get_base_layer(), UnpackedLinear4bit)
    return FusedLora(layers) if unpacked else PackedLora(layers)


def keep_copies(llava: LlavaModel) -> None:
    """Keeps a transposed copy of all FP8 weights: a byte per weight for a faster backward pass.

    Raises UserError when the copies do not fit into GPU memory.
    """
    layers = llava.language_model.layers
    read = [one.fused[0] if isinstance(one, FusedDecoderLayer) else one for one in layers]
    parts = [part for layer in read for part in layer.modules()]
    try:
        for part in parts:
            if isinstance(part, FusedFp8Lora | Fp8Linear):
                part.keep_transposed()
    except torch.OutOfMemoryError:
        raise errors.no_memory_for_copies() from None


def fuse_lora(llava: LlavaModel) -> list[FusedLayer]:
    """Replaces the language model's layers, except the last, by fused ones. Returns the new ones.

    Replaces nothing and returns [] without adapters, when a layer is neither 4-bit nor FP8, when
    its adapter is not plain LoRA, or when FSDP will shard the adapters.
    """
    language = llava.language_model
    layers = language.layers[:-1]
    adapted = [m for layer in layers for m in layer.modules() if hasattr(m, "base_layer")]
    if is_spread_by_fsdp() or not adapted or not all(map(_is_plain_lora, adapted)):
        return []
    fused = [FusedLayer(layer, trained_product) for layer in layers]
    for index, (layer, one) in enumerate(zip(layers, fused, strict=True)):
        language.layers[index] = swapped = as_subclass(layer, FusedDecoderLayer)
        swapped.fused = (one,)
    products = [m for layer in fused for m in layer.modules() if isinstance(m, TrainedProduct)]
    language.register_forward_pre_hook(lambda *_: sync_weights(products))
    return fused


def sync_weights(products: Sequence[TrainedProduct]) -> None:
    """Copies the current adapter weights into the products' matrices."""
    lora_a = [tensor for product in products for tensor in product.lora_a]
    lora_b = [tensor for product in products for tensor in product.lora_b]
    scalings = [scaling for product in products for scaling in product.scalings]
    own_a = [own for product in products for own in product.own_a]
    own_b = [own for product in products for own in product.own_b]
    copy_adapters(own_a, own_b, lora_a, lora_b, scalings)


def _is_plain_lora(layer: Any) -> bool:
    """LoRA without dropout and without DoRA's magnitude, on a layer that can be fused."""
    base = layer.base_layer
    return (
        (isinstance(base, Fp8Linear | UnpackedLinear4bit) or _is_packed(base))
        and not layer.lora_magnitude_vector
        and all(isinstance(dropout, nn.Identity) for dropout in layer.lora_dropout.values())
    )


def _is_packed(layer: Any) -> bool:
    return isinstance(layer, Linear4bit) and can_be_joined(layer)
