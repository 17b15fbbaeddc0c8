"""What makes training and counting fast and small. Each function changes how a result is computed,
not the result: `tests/test_speed.py` holds its loss and gradients to the plain path's.
"""

from collections.abc import Sequence
from functools import partial, wraps
from typing import Any

import torch
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn import Linear4bit
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers import Cache, LlavaConfig, LlavaForConditionalGeneration
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb
from transformers.models.llava.modeling_llava import LlavaModel

from llava_dvc import config
from llava_dvc.model.attention import attend

SPARE = 0.8  # share of the free memory that activations may take


class Unpacked(Linear4bit):  # type: ignore[misc]
    """A 4-bit layer that keeps its weights in 16 bits beside the packed ones: the same numbers,
    without unpacking them in every pass.
    """

    unpacked: Tensor

    def forward(self, x: Tensor) -> Tensor:
        weight = self.unpacked
        return linear(x.to(weight.dtype), weight, self.bias).to(x.dtype)


def unpack(model: LlavaForConditionalGeneration) -> None:
    """Turn every 4-bit layer into an Unpacked one; takes four times the packed weights' memory."""
    for module in model.modules():
        if isinstance(module, Linear4bit):
            # An attribute, not a buffer: it belongs to no state dict and is never sent about.
            module.unpacked = unpacked_weight(module)
            module.__class__ = Unpacked


def unpacked_weight(layer: Any) -> Tensor:
    """The layer's weight in the number format it computes in."""
    weight: Tensor = layer.weight.data
    if isinstance(layer, Unpacked):
        weight = layer.unpacked
    elif isinstance(layer, Linear4bit):
        weight = dequantize_4bit(weight, layer.weight.quant_state).to(layer.compute_dtype)
    return weight


def blocks_read(llava: LlavaConfig) -> int:
    """How many of the tower's blocks come before `vision_feature_layer`, the output that LLaVA
    reads.
    """
    layers = llava.vision_feature_layer
    outputs = llava.vision_config.num_hidden_layers + 1  # the embeddings count as the first
    return int(max(i % outputs for i in ([layers] if isinstance(layers, int) else layers)))


def skip_unread_blocks(model: LlavaForConditionalGeneration) -> None:
    """Let the tower's blocks behind the one that LLaVA reads pass on what they are given."""
    for block in model.model.vision_tower.encoder.layers[blocks_read(model.config) :]:
        block.forward = lambda hidden_states, *_, **__: hidden_states


def shorten_last_layer(model: LlavaForConditionalGeneration) -> None:
    """Let the language model's last layer compute what `logits_to_keep` asks for: of the other
    tokens it needs keys and values alone.
    """
    layers, whole = model.model.language_model.layers, model.forward

    @wraps(whole)
    def forward(*given: Any, logits_to_keep: int = 0, **named: Any) -> Any:
        layers[-1].kept = slice(-logits_to_keep or None, None)
        return whole(*given, logits_to_keep=logits_to_keep, **named)

    model.forward = forward
    layers[-1].forward = partial(_shortened, layers[-1])


def _shortened(
    layer: Any,
    hidden_states: Tensor,
    attention_mask: Tensor | None = None,
    past_key_values: Cache | None = None,
    *,
    position_embeddings: tuple[Tensor, Tensor],
    **_: Any,
) -> Tensor:
    """A LlamaDecoderLayer's output at the positions in `layer.kept`."""
    attention, normed = layer.self_attn, layer.input_layernorm(hidden_states)
    cos, sin = position_embeddings

    def heads(x: Tensor) -> Tensor:
        return x.view(*x.shape[:-1], -1, attention.head_dim).transpose(1, 2)

    query = heads(attention.q_proj(normed[:, layer.kept]))
    query, _ = apply_rotary_pos_emb(query, query, cos[:, layer.kept], sin[:, layer.kept])
    key, value = heads(attention.k_proj(normed)), heads(attention.v_proj(normed))
    key, _ = apply_rotary_pos_emb(key, key, cos, sin)
    if past_key_values is not None:
        key, value = past_key_values.update(key, value, attention.layer_idx)
    if attention_mask is not None:
        attention_mask = attention_mask[..., -query.shape[2] :, :]
    mixed = attend(query, key, value, attention_mask, attention.scaling)
    hidden = hidden_states[:, layer.kept] + attention.o_proj(mixed.transpose(1, 2).flatten(2))
    output: Tensor = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
    return output


def number_on_the_host(model: LlavaForConditionalGeneration) -> None:
    """Number the tokens on the CPU: from their numbers transformers reads in every step whether
    several sequences are packed into one, and would wait for the device to say so.
    """

    def number(_: Any, given: Any, named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        tokens = named["inputs_embeds"].shape[1]
        if named.get("position_ids") is None and named.get("past_key_values") is None:
            named = named | {"position_ids": torch.arange(tokens)[None]}
        return given, named

    def move(_: Any, given: Any, named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        numbers = named["position_ids"].to(given[0].device, non_blocking=True)
        return given, named | {"position_ids": numbers}

    language = model.model.language_model
    language.register_forward_pre_hook(number, with_kwargs=True)
    language.rotary_emb.register_forward_pre_hook(move, with_kwargs=True, prepend=True)


def run_tower_without_graph(model: LlavaForConditionalGeneration) -> None:
    """Run the frozen vision tower without a graph.

    With checkpointing TRL makes every input require a gradient, and backward would go through the
    whole tower for nothing.
    """
    tower = model.model.vision_tower
    tower.forward = torch.no_grad()(tower.forward)


def trust_image_tokens(llava: LlavaModel) -> None:
    """Do not count the image tokens of every batch on the device, which would be waited for:
    `preflight` has counted them.
    """
    token = int(llava.config.image_token_id)

    def places(input_ids: Tensor, **_: Any) -> Tensor:
        return input_ids.eq(token).unsqueeze(-1)

    llava.get_placeholder_mask = places


def compile_layers(
    model: LlavaForConditionalGeneration,
    folded: Sequence[nn.Module] = (),
    backend: str = "inductor",
) -> None:
    """Compile the tower's blocks and the language model's layers: alike, they share one compiled
    graph each, so it takes seconds. All batches must have one shape. The last layer is another one,
    and short.

    A layer is not looked through before every call for what may have changed since it was compiled,
    its adapter or its mode: nothing does in training, and looking takes longer than computing.
    Layers that are computed by `folded` ones are compiled there.
    """
    blocks = model.model.vision_tower.encoder.layers[: blocks_read(model.config)]
    options: Any = {"guard_filter_fn": torch.compiler.skip_guard_on_all_nn_modules_unsafe}
    for layer in [*blocks, *(folded or model.model.language_model.layers[:-1])]:
        layer.compile(dynamic=False, backend=backend, options=dict(options))


def checkpoints(recipe: config.Train, model: LlavaForConditionalGeneration, tokens: int) -> bool:
    """Whether to recompute activations: as `train.checkpointing` says, or for `auto` when those of
    a batch of `tokens` would not fit into the free memory.
    """
    if recipe.checkpointing != "auto":
        return recipe.checkpointing
    if model.device.type != "cuda":
        return False
    free, _ = torch.cuda.mem_get_info(model.device)
    return activation_bytes(model.config.text_config, tokens) > SPARE * free


def activation_bytes(text: Any, tokens: int) -> int:
    """What backward needs of `tokens` tokens' activations, in 16 bits.

    A layer keeps about ten tensors of the hidden width and four of the inner one (measured on 7B:
    161 KiB a token and layer, 170 by this rule).
    """
    a_token = 2 * (10 * text.hidden_size + 4 * text.intermediate_size)
    return int(tokens * text.num_hidden_layers * a_token)
