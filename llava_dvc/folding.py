"""Adapters folded into their layers' weights, on a GPU.

W x + s B A x is one matrix product, [W, s B] times [x; A x]: nothing is added to W, so that nothing
of the adapter is rounded away, and the adapter costs no pass over memory of its own. Layers that
read the same input share theirs. So are their gradients: of x and A x in one product.
"""

import os
from collections.abc import Sequence
from typing import Any

import torch
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn import Linear4bit
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.nn.functional import linear, silu
from transformers import Cache
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb
from transformers.models.llava.modeling_llava import LlavaModel

from llava_dvc.attention import attend
from llava_dvc.speed import Unpacked, blocks_read, trust_image_tokens


class Folded(nn.Module):
    """Linear layers without bias that read the same input, their adapters included."""

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        weights, downs, ups = zip(*map(_parts, layers), strict=True)
        self.down = torch.cat(downs)
        own = torch.block_diag(*ups)  # type: ignore[no-untyped-call]
        self.weight = torch.cat([torch.cat(weights), own], dim=1)

    def forward(self, x: Tensor) -> Tensor:
        """`(tokens, width)` to the layers' outputs, one behind the other."""
        return linear(widened(x, self.down), self.weight)


def widened(x: Tensor, down: Tensor) -> Tensor:
    """[x; A x]. Of two dimensions, which lets a compiler write A x into its place."""
    return torch.cat([x, linear(x, down)], dim=1)


class Learning(Folded):
    """The same of unpacked layers whose adapters learn; `refresh` before every pass. The layers
    keep no weights of their own beside these.
    """

    def __init__(self, layers: Sequence[Any]) -> None:
        super().__init__(layers)
        [name] = layers[0].active_adapters
        self.downs = [layer.lora_A[name].weight for layer in layers]
        self.ups = [layer.lora_B[name].weight for layer in layers]
        self.scalings = [layer.scaling[name] for layer in layers]
        width, row = self.weight.shape[1] - len(self.down), 0
        for layer, up in zip(layers, self.ups, strict=True):
            layer.get_base_layer().unpacked = self.weight[row : row + len(up), :width]
            row += len(up)
        self.own_downs = _pieces(self.down, [len(down) for down in self.downs])
        self.own_ups = _blocks(self.weight[:, width:], self.ups)

    def forward(self, x: Tensor) -> Tensor:
        return Product.apply(  # type: ignore[no-any-return]
            x, self.down, self.weight, self.scalings, len(self.downs), *self.downs, *self.ups
        )


def _blocks(whole: Tensor, ups: Sequence[Tensor]) -> list[Tensor]:
    """Of a matrix as high and wide as all of `ups`, the blocks on the diagonal that are theirs."""
    blocks, row, column = [], 0, 0
    for up in ups:
        height, rank = up.shape
        blocks.append(whole[row : row + height, column : column + rank])
        row, column = row + height, column + rank
    return blocks


def _pieces(whole: Tensor, lengths: Sequence[int]) -> list[Tensor]:
    return list(torch.split(whole, list(lengths)))


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
        both = widened(x, down)
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
        of_downs = _pieces(of_low.T @ x, [len(one) for one in downs])
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


def _parts(layer: Any) -> tuple[Tensor, Tensor, Tensor]:
    """W `(out, in)`, A `(rank, in)` and s B `(out, rank)` in the number format that W computes in;
    the rank is 0 without an adapter, or one that is in W already.
    """
    base = layer.get_base_layer() if isinstance(layer, LoraLayer) else layer
    weight = _weight(base)
    if not isinstance(layer, LoraLayer) or layer.merged:
        return weight, weight[:0], weight[:, :0]
    (name,) = layer.active_adapters
    down, up = layer.lora_A[name].weight, layer.lora_B[name].weight * layer.scaling[name]
    if name in layer.lora_magnitude_vector:  # DoRA: every output has a length of its own
        magnitude = layer.lora_magnitude_vector[name].weight
        length = (weight.float() + up @ down).norm(dim=1)
        stretch = (magnitude / length)[:, None]
        weight, up = (weight.float() * stretch).to(weight.dtype), up * stretch
    return weight, down.to(weight.dtype), up.to(weight.dtype)


def _weight(layer: Any) -> Tensor:
    if not isinstance(layer, Linear4bit):
        return layer.weight.data  # type: ignore[no-any-return]
    whole: Tensor = dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    return whole.to(layer.compute_dtype)


class BeforeAttention(nn.Module):
    """Norm and the three projections of a decoder layer, turned by place."""

    def __init__(self, layer: Any, product: type[Folded]) -> None:
        super().__init__()
        attention = layer.self_attn
        self.norm, self.width = layer.input_layernorm, attention.head_dim
        self.project = product([attention.q_proj, attention.k_proj, attention.v_proj])
        config = attention.config
        self.heads = config.num_attention_heads, *[config.num_key_value_heads] * 2

    def forward(self, hidden: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and value, `(rows, heads, tokens, width)` each."""
        projected = self.project(self.norm(hidden).flatten(0, 1))
        heads = projected.view(*hidden.shape[:2], -1, self.width).transpose(1, 2)
        query, key, value = heads.split(self.heads, dim=1)
        query, key = apply_rotary_pos_emb(query, key, cos, sin)
        return query, key, value


class FromAttention(nn.Module):
    """The rest of the layer."""

    def __init__(self, layer: Any, product: type[Folded]) -> None:
        super().__init__()
        attention, mlp = layer.self_attn, layer.mlp
        self.scaling, self.norm = attention.scaling, layer.post_attention_layernorm
        self.out = product([attention.o_proj])
        self.gate_up, self.down = product([mlp.gate_proj, mlp.up_proj]), product([mlp.down_proj])

    def forward(
        self, hidden: Tensor, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None
    ) -> Tensor:
        """`hidden` is what the layer was given, `(rows, tokens, width)`."""
        mixed = attend(query, key, value, mask, self.scaling).transpose(1, 2)
        flat = hidden.flatten(0, 1) + self.out(mixed.flatten(2).flatten(0, 1))
        gate, up = self.gate_up(self.norm(flat)).chunk(2, dim=-1)
        output: Tensor = flat + self.down(silu(gate) * up)
        return output.view_as(hidden)


class FoldedLayer(nn.Module):
    """What a LlamaDecoderLayer computes, of two parts that know no cache."""

    def __init__(self, layer: Any, product: type[Folded] = Folded) -> None:
        super().__init__()
        self.index = layer.self_attn.layer_idx
        self.before, self.after = BeforeAttention(layer, product), FromAttention(layer, product)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        *,
        position_embeddings: tuple[Tensor, Tensor],
        **_: Any,
    ) -> Tensor:
        query, key, value = self.before(hidden_states, *position_embeddings)
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.index)
        output: Tensor = self.after(hidden_states, query, key, value, attention_mask)
        return output


def fold_and_compile(model: Any, backend: str = "inductor") -> None:
    """Fold the language model's adapters and compile its layers and the tower's blocks, for
    counting alone: the layers keep nothing to train or save.

    4-bit weights are unpacked; the last layer, which computes the answer's positions only, stays as
    it is. The parts of all layers share one compiled graph each.
    """
    llava = next(module for module in model.modules() if isinstance(module, LlavaModel))
    trust_image_tokens(llava)
    parts: list[nn.Module] = list(llava.vision_tower.encoder.layers[: blocks_read(llava.config)])
    layers = llava.language_model.layers
    for index, layer in enumerate(layers[:-1]):
        layers[index] = folded = FoldedLayer(layer)
        parts += [folded.before, folded.after]
    for part in parts:
        part.compile(dynamic=False, backend=backend)


def fold_to_train(llava: LlavaModel) -> list[FoldedLayer]:
    """Have the language model's layers, all but the last, computed by folded ones, which are
    returned; none when some layer is not unpacked, or is adapted otherwise than by plain LoRA, or
    when FSDP will spread the adapters.
    """
    language = llava.language_model
    layers = language.layers[:-1]
    inside = [one for layer in layers for one in layer.modules() if hasattr(one, "base_layer")]
    spread = os.environ.get("ACCELERATE_USE_FSDP") == "true"
    if spread or not inside or not all(map(_is_plain, inside)):
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
