"""A decoder layer in which linear layers with the same input are one product."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.nn.functional import silu
from transformers import Cache
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from llava_dvc.model.attention import attend


class Heads(NamedTuple):
    """Numbers of heads, and the width of one."""

    queries: int
    keys: int
    values: int
    width: int


class Product(nn.Module):
    """Linear layers that read the same input, as one module. It maps `(tokens, width)` to the
    layers' outputs, concatenated.
    """

    def add_to(self, total: Tensor, x: Tensor) -> Tensor:
        """The sum of `total` and the outputs for `x`."""
        return total.add(self(x))

    def rotated(
        self, hidden: Tensor, rotation: tuple[Tensor, Tensor], heads: Heads
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and value of `hidden`, `(rows, tokens, width)`, each `(rows, heads, tokens,
        head width)`. `rotation` is the cosine and sine of the rotary embedding.
        """
        return rotated(self(hidden.flatten(0, 1)).view(*hidden.shape[:2], -1), rotation, heads)

    def gated(self, x: Tensor) -> Tensor:
        """silu(gate) * up, where [gate, up] are the outputs for `x`."""
        return gated(self(x))


MakeProduct = Callable[[Sequence[Any]], Product]


def rotated(
    projected: Tensor, rotation: tuple[Tensor, Tensor], heads: Heads
) -> tuple[Tensor, Tensor, Tensor]:
    """Splits `(rows, tokens, width)` into heads, and rotates query and key."""
    each: Any = projected.view(*projected.shape[:2], -1, heads.width).transpose(1, 2)
    query, key, value = each.split(heads[:3], dim=1)
    query, key = apply_rotary_pos_emb(query, key, *rotation)
    return query, key, value


def gated(outputs: Tensor) -> Tensor:
    """silu(gate) * up of [gate, up], side by side."""
    gate, up = outputs.chunk(2, dim=-1)
    return silu(gate) * up


def adapters_of(layers: Sequence[Any]) -> tuple[list[Tensor], list[Tensor], list[float]]:
    """lora_A, lora_B and scaling of each layer that has an adapter."""
    adapted = [layer for layer in layers if isinstance(layer, LoraLayer)]
    pairs = [(layer, layer.active_adapters[0]) for layer in adapted]
    return (
        [layer.lora_A[name].weight for layer, name in pairs],
        [layer.lora_B[name].weight for layer, name in pairs],
        [layer.scaling[name] for layer, name in pairs],
    )


def diagonal_blocks(whole: Tensor, lora_b: Sequence[Tensor]) -> list[Tensor]:
    """The blocks on the diagonal of `whole`, each of the shape of one of `lora_b`."""
    blocks, row, column = [], 0, 0
    for up in lora_b:
        height, rank = up.shape
        blocks.append(whole[row : row + height, column : column + rank])
        row, column = row + height, column + rank
    return blocks


def split_rows(whole: Tensor, parts: Sequence[Tensor]) -> list[Tensor]:
    """Splits the rows of `whole`: each piece has as many rows as one of `parts`."""
    return list(torch.split(whole, [len(part) for part in parts]))


@torch.no_grad()
def copy_adapters(
    own_a: list[Tensor],
    own_b: list[Tensor],
    lora_a: list[Tensor],
    lora_b: list[Tensor],
    scalings: list[float],
) -> None:
    """Copies lora_A into `own_a`, and the scaled lora_B into `own_b`."""
    if lora_a:
        torch._foreach_copy_(own_a, lora_a)
        torch._foreach_copy_(own_b, torch._foreach_mul(lora_b, scalings))


def adapter_gradients(
    of_down: Tensor, of_up: Tensor, lora: Sequence[Tensor], scalings: Sequence[float]
) -> list[Tensor]:
    """The gradients of every lora_A, then of every lora_B, from those of the matrices into which
    `copy_adapters` copies them. `lora` are these tensors in the same order.
    """
    lora_a, lora_b = lora[: len(scalings)], lora[len(scalings) :]
    of_a, of_b = split_rows(of_down, lora_a), diagonal_blocks(of_up, lora_b)
    return [
        *[one.to(p.dtype) for one, p in zip(of_a, lora_a, strict=True)],
        *[s * one.to(p.dtype) for one, p, s in zip(of_b, lora_b, scalings, strict=True)],
    ]


class BeforeAttention(nn.Module):
    """Norm, the three projections, and the rotary embedding of a decoder layer."""

    def __init__(self, layer: Any, make_product: MakeProduct) -> None:
        super().__init__()
        attention = layer.self_attn
        self.norm, config = layer.input_layernorm, attention.config
        self.project = make_product([attention.q_proj, attention.k_proj, attention.v_proj])
        pairs = config.num_key_value_heads
        self.heads = Heads(config.num_attention_heads, pairs, pairs, attention.head_dim)

    def forward(self, hidden: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and value, each `(rows, heads, tokens, width)`."""
        return self.project.rotated(self.norm(hidden), (cos, sin), self.heads)


class FromAttention(nn.Module):
    """Attention, its output projection, and the MLP of a decoder layer."""

    def __init__(self, layer: Any, make_product: MakeProduct) -> None:
        super().__init__()
        attention, mlp = layer.self_attn, layer.mlp
        self.scaling, self.norm = attention.scaling, layer.post_attention_layernorm
        self.out = make_product([attention.o_proj])
        self.gate_up = make_product([mlp.gate_proj, mlp.up_proj])
        self.down = make_product([mlp.down_proj])

    def forward(
        self, hidden: Tensor, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None
    ) -> Tensor:
        """`hidden` is the layer's input, `(rows, tokens, width)`. MergedLinear overwrites it."""
        mixed = attend(query, key, value, mask, self.scaling).transpose(1, 2)
        flat = self.out.add_to(hidden.flatten(0, 1), mixed.flatten(2).flatten(0, 1))
        output = self.down.add_to(flat, self.gate_up.gated(self.norm(flat)))
        return output.view_as(hidden)


class FusedLayer(nn.Module):
    """Computes what a LlamaDecoderLayer computes, in two parts.

    `forward` handles the cache between them.
    """

    kept = slice(None)
    """Positions whose output is asked for. `ShortLlava` sets it on the last layer."""

    def __init__(self, layer: Any, make_product: MakeProduct) -> None:
        super().__init__()
        self.index = layer.self_attn.layer_idx
        self.before = BeforeAttention(layer, make_product)
        self.after = FromAttention(layer, make_product)

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
        query = query[:, :, self.kept]
        if attention_mask is not None:
            attention_mask = attention_mask[..., -query.shape[2] :, :]
        hidden = hidden_states[:, self.kept]
        if self.kept != slice(None):
            # Of one frame this is a view at an offset into the layer's input. Compiled code cannot
            # let MergedLinear write into it.
            hidden = hidden.clone()
        output: Tensor = self.after(hidden, query, key, value, attention_mask)
        return output
