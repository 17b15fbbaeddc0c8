"""Adapters folded into their layers' weights, for counting on a GPU.

W x + s B A x is one matrix product, [W, s B] times [x; A x]: nothing is added to W, so that nothing
of the adapter is rounded away, and the adapter costs no pass over memory of its own. Layers that
read the same input share theirs.
"""

from collections.abc import Sequence
from functools import partial
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
from llava_dvc.speed import blocks_read


class Folded(nn.Module):
    """Linear layers without bias that read the same input, their adapters included."""

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        weights, downs, ups = zip(*map(_parts, layers), strict=True)
        self.down = torch.cat(downs)
        own = torch.block_diag(*ups)  # type: ignore[no-untyped-call]
        self.weight = torch.cat([torch.cat(weights), own], dim=1)

    def forward(self, x: Tensor) -> Tensor:
        """`(..., width)` to the layers' outputs, one behind the other."""
        return linear(torch.cat([x, linear(x, self.down)], dim=-1), self.weight)


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

    def __init__(self, layer: Any) -> None:
        super().__init__()
        attention = layer.self_attn
        self.norm, self.width = layer.input_layernorm, attention.head_dim
        self.project = Folded([attention.q_proj, attention.k_proj, attention.v_proj])
        config = attention.config
        self.heads = config.num_attention_heads, *[config.num_key_value_heads] * 2

    def forward(self, hidden: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and value, `(rows, heads, tokens, width)` each."""
        projected = self.project(self.norm(hidden)).unflatten(-1, (-1, self.width))
        query, key, value = projected.transpose(1, 2).split(self.heads, dim=1)
        query, key = apply_rotary_pos_emb(query, key, cos, sin)
        return query, key, value


class FromAttention(nn.Module):
    """The rest of the layer."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        attention, mlp = layer.self_attn, layer.mlp
        self.scaling, self.norm = attention.scaling, layer.post_attention_layernorm
        self.out = Folded([attention.o_proj])
        self.gate_up, self.down = Folded([mlp.gate_proj, mlp.up_proj]), Folded([mlp.down_proj])

    def forward(
        self, hidden: Tensor, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None
    ) -> Tensor:
        """`hidden` is what the layer was given, `(rows, tokens, width)`."""
        mixed = attend(query, key, value, mask, self.scaling)
        hidden = hidden + self.out(mixed.transpose(1, 2).flatten(2))
        gate, up = self.gate_up(self.norm(hidden)).chunk(2, dim=-1)
        output: Tensor = hidden + self.down(silu(gate) * up)
        return output


def fold_and_compile(model: Any, backend: str = "inductor") -> None:
    """Fold the language model's adapters and compile its layers and the tower's blocks, for
    counting alone: the layers keep nothing to train or save.

    4-bit weights are unpacked; the last layer, which computes the answer's positions only, stays as
    it is. The parts of all layers share one compiled graph each, which know no cache.
    """
    llava = next(module for module in model.modules() if isinstance(module, LlavaModel))
    parts: list[nn.Module] = list(llava.vision_tower.encoder.layers[: blocks_read(llava.config)])
    for layer in llava.language_model.layers[:-1]:
        before, after = BeforeAttention(layer), FromAttention(layer)
        index = layer.self_attn.layer_idx
        layer.self_attn = layer.mlp = None  # their weights are in the parts
        layer.before, layer.after = before, after
        layer.forward = partial(_forward, before, after, index)
        parts += [before, after]
    for part in parts:
        part.compile(dynamic=False, backend=backend)


def _forward(
    before: nn.Module,
    after: nn.Module,
    index: int,
    hidden_states: Tensor,
    attention_mask: Tensor | None = None,
    past_key_values: Cache | None = None,
    *,
    position_embeddings: tuple[Tensor, Tensor],
    **_: Any,
) -> Tensor:
    """A LlamaDecoderLayer's, of its two parts."""
    query, key, value = before(hidden_states, *position_embeddings)
    if past_key_values is not None:
        key, value = past_key_values.update(key, value, index)
    output: Tensor = after(hidden_states, query, key, value, attention_mask)
    return output
