"""Training: adapters as further columns of the weights they adapt."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers.models.llava.modeling_llava import LlavaModel

from llava_dvc.model.backbone import spread_by_fsdp
from llava_dvc.model.fused_layer import FoldedLayer
from llava_dvc.model.model_patches import Unpacked


class Learning(nn.Module):
    """Unpacked layers that read the same input, with adapters that learn; `refresh` before every
    pass. The layers keep no weights of their own beside these.
    """

    def __init__(self, layers: Sequence[Any]) -> None:
        super().__init__()
        [name] = layers[0].active_adapters
        self.downs = [layer.lora_A[name].weight for layer in layers]
        self.ups = [layer.lora_B[name].weight for layer in layers]
        self.scalings = [layer.scaling[name] for layer in layers]
        bases = [layer.get_base_layer() for layer in layers]
        weight = torch.cat([base.unpacked for base in bases])
        rows, width = weight.shape
        self.down = weight.new_zeros(sum(map(len, self.downs)), width)
        self.weight = torch.cat([weight, weight.new_zeros(rows, len(self.down))], dim=1)
        for base, own in zip(bases, _pieces(self.weight[:, :width], self.ups), strict=True):
            base.unpacked = own
        self.own_downs = _pieces(self.down, self.downs)
        self.own_ups = _blocks(self.weight[:, width:], self.ups)

    def forward(self, x: Tensor) -> Tensor:
        """`(tokens, width)` to the layers' outputs, one behind the other."""
        return Product.apply(  # type: ignore[no-any-return]
            x, self.down, self.weight, self.scalings, len(self.downs), *self.downs, *self.ups
        )

    def onto(self, total: Tensor, x: Tensor) -> Tensor:
        """The sum of both."""
        return total.add(self(x))


def _blocks(whole: Tensor, ups: Sequence[Tensor]) -> list[Tensor]:
    """Of a matrix as high and wide as all of `ups`, the blocks on the diagonal that are theirs."""
    blocks, row, column = [], 0, 0
    for up in ups:
        height, rank = up.shape
        blocks.append(whole[row : row + height, column : column + rank])
        row, column = row + height, column + rank
    return blocks


def _pieces(whole: Tensor, parts: Sequence[Tensor]) -> list[Tensor]:
    """Of a matrix as high as all of `parts`, the rows that are theirs."""
    return list(torch.split(whole, [len(part) for part in parts]))


class Product(torch.autograd.Function):
    """[W, s B] times [x; A x]. The adapters' own tensors are given for their gradients alone."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        down: Tensor,
        weight: Tensor,
        scalings: Sequence[float],
        layers: int,
        *adapters: Tensor,
    ) -> Tensor:
        # Of two dimensions, which lets a compiler write A x into its place.
        both = torch.cat([x, linear(x, down)], dim=1)
        ctx.save_for_backward(both, down, weight, *adapters)
        ctx.scalings, ctx.layers = scalings, layers
        return linear(both, weight)

    @staticmethod
    def backward(ctx: Any, *given: Tensor) -> Any:
        [gradient] = given
        both, down, weight, *adapters = ctx.saved_tensors
        downs, ups = adapters[: ctx.layers], adapters[ctx.layers :]
        width = down.shape[1]
        back = gradient @ weight
        x, low, of_x, of_low = both[:, :width], both[:, width:], back[:, :width], back[:, width:]
        of_downs = _pieces(of_low.T @ x, downs)
        of_ups = _blocks(gradient.T @ low, ups)
        return (
            of_x + of_low @ down,
            *[None] * 4,
            *[one.to(p.dtype) for one, p in zip(of_downs, downs, strict=True)],
            *[s * one.to(p.dtype) for one, p, s in zip(of_ups, ups, ctx.scalings, strict=True)],
        )


@torch.no_grad()
def refresh(products: Sequence[Learning]) -> None:
    """Bring the weights up to what the adapters have learnt."""
    downs = [down for product in products for down in product.downs]
    ups = [up for product in products for up in product.ups]
    scalings = [scaling for product in products for scaling in product.scalings]
    own_downs = [own for product in products for own in product.own_downs]
    own_ups = [own for product in products for own in product.own_ups]
    torch._foreach_copy_(own_downs, downs)
    torch._foreach_copy_(own_ups, torch._foreach_mul(ups, scalings))


def fold_to_train(llava: LlavaModel) -> list[FoldedLayer]:
    """Have the language model's layers, all but the last, computed by folded ones, which are
    returned; none when some layer is not unpacked, or is adapted otherwise than by plain LoRA, or
    when FSDP will spread the adapters.
    """
    language = llava.language_model
    layers = language.layers[:-1]
    inside = [one for layer in layers for one in layer.modules() if hasattr(one, "base_layer")]
    if spread_by_fsdp() or not inside or not all(map(_is_plain, inside)):
        return []
    folded = [FoldedLayer(layer, Learning) for layer in layers]
    for layer, other in zip(layers, folded, strict=True):
        layer.forward = other.__call__
    products = [one for layer in folded for one in layer.modules() if isinstance(one, Learning)]
    language.register_forward_pre_hook(lambda *_: refresh(products))
    return folded


def _is_plain(layer: Any) -> bool:
    return (
        isinstance(layer.base_layer, Unpacked)
        and not layer.lora_magnitude_vector
        and all(isinstance(dropout, nn.Identity) for dropout in layer.lora_dropout.values())
    )
