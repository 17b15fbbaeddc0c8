"""A decoder layer whose layers that read the same input are one product."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import silu
from transformers import Cache
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from llava_dvc.model.attention import attend

Product = Callable[[Sequence[Any]], Any]
"""Makes one module of linear layers that read the same input."""


class BeforeAttention(nn.Module):
    """Norm and the three projections of a decoder layer, turned by place."""

    def __init__(self, layer: Any, product: Product) -> None:
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

    def __init__(self, layer: Any, product: Product) -> None:
        super().__init__()
        attention, mlp = layer.self_attn, layer.mlp
        self.scaling, self.norm = attention.scaling, layer.post_attention_layernorm
        self.out = product([attention.o_proj])
        self.gate_up, self.down = product([mlp.gate_proj, mlp.up_proj]), product([mlp.down_proj])

    def forward(
        self, hidden: Tensor, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None
    ) -> Tensor:
        """`hidden` is what the layer was given, `(rows, tokens, width)`; Merged writes over it."""
        mixed = attend(query, key, value, mask, self.scaling).transpose(1, 2)
        flat = self.out.onto(hidden.flatten(0, 1), mixed.flatten(2).flatten(0, 1))
        gate, up = self.gate_up(self.norm(flat)).chunk(2, dim=-1)
        output: Tensor = self.down.onto(flat, silu(gate) * up)
        return output.view_as(hidden)


class FoldedLayer(nn.Module):
    """What a LlamaDecoderLayer computes, of two parts that know no cache."""

    kept = slice(None)
    """Positions whose output is asked for; `speed.shorten_last_layer` sets the last layer's."""

    def __init__(self, layer: Any, product: Product) -> None:
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
        query = query[:, :, self.kept]
        if attention_mask is not None:
            attention_mask = attention_mask[..., -query.shape[2] :, :]
        hidden = hidden_states[:, self.kept]
        output: Tensor = self.after(hidden, query, key, value, attention_mask)
        return output
