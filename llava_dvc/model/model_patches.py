"""Parts of LLaVA that compute the same result in less time or memory.

Where possible each is a subclass of the transformers module that it replaces.
`tests/model/test_model_patches.py` compares loss and gradients with the original.
"""

from functools import wraps
from typing import Any, TypeVar

import torch
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn import Linear4bit
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers import Cache, LlavaConfig, LlavaForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.models.clip.modeling_clip import CLIPEncoderLayer
from transformers.models.llama.modeling_llama import (
    LlamaDecoderLayer,
    LlamaModel,
    apply_rotary_pos_emb,
)
from transformers.models.llava.modeling_llava import LlavaModel

from llava_dvc.model.attention import attend

M = TypeVar("M", bound=nn.Module)


def as_subclass(module: nn.Module, kind: type[M]) -> M:
    """A module of the subclass `kind` with the parts, settings and hooks of `module`."""
    if not issubclass(kind, type(module)) or "forward" in vars(module):
        raise TypeError(f"{type(module).__name__} cannot become {kind.__name__}")
    new = kind.__new__(kind)
    new.__dict__.update(vars(module))
    return new


class UnreadBlock(CLIPEncoderLayer):  # type: ignore[misc]
    """A block of the vision tower behind the one that LLaVA reads. Returns its input."""

    def forward(self, hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
        return hidden_states


class UncheckedLlava(LlavaModel):  # type: ignore[misc]
    """Trusts that a batch has as many image tokens as image features: the preflight has counted
    them. transformers counts them in every batch, and its `masked_scatter` does so in the backward
    pass, when a projector learns. Both wait for the GPU. Returns no `image_hidden_states`.
    """

    def forward(
        self,
        *,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        **given: Any,
    ) -> Any:
        if input_ids is not None and pixel_values is not None:
            texts = self.get_input_embeddings()(input_ids)
            images = self.get_image_features(pixel_values=pixel_values, return_dict=True)
            features = torch.cat(list(images.pooler_output)).to(texts.device, texts.dtype)
            inputs_embeds = put_images(texts, features, input_ids == self.config.image_token_id)
            input_ids = pixel_values = None
        return super().forward(
            input_ids=input_ids, pixel_values=pixel_values, inputs_embeds=inputs_embeds, **given
        )


def put_images(texts: Tensor, features: Tensor, is_image: Tensor) -> Tensor:
    """Puts `features`, `(image tokens, width)`, one after the other where `is_image`, `(rows,
    tokens)`, is true in as many places. Takes and returns `(rows, tokens, width)`.
    """
    places = is_image.flatten().int().argsort(descending=True, stable=True)[: len(features)]
    return texts.flatten(0, 1).index_copy(0, places, features).view_as(texts)


class ShortLastLayer(LlamaDecoderLayer):  # type: ignore[misc]
    """A last decoder layer that computes only the positions in `kept`. Of the other tokens it
    needs keys and values alone.
    """

    kept = slice(None)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        *,
        position_embeddings: tuple[Tensor, Tensor],
        **_: Any,
    ) -> Tensor:
        attention, normed = self.self_attn, self.input_layernorm(hidden_states)
        cos, sin = position_embeddings

        def heads(x: Tensor) -> Tensor:
            return x.view(*x.shape[:-1], -1, attention.head_dim).transpose(1, 2)

        query = heads(attention.q_proj(normed[:, self.kept]))
        query, _ = apply_rotary_pos_emb(query, query, cos[:, self.kept], sin[:, self.kept])
        key, value = heads(attention.k_proj(normed)), heads(attention.v_proj(normed))
        key, _ = apply_rotary_pos_emb(key, key, cos, sin)
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, attention.layer_idx)
        if attention_mask is not None:
            attention_mask = attention_mask[..., -query.shape[2] :, :]
        mixed = attend(query, key, value, attention_mask, attention.scaling)
        hidden = hidden_states[:, self.kept] + attention.o_proj(mixed.transpose(1, 2).flatten(2))
        output: Tensor = hidden + self.mlp(self.post_attention_layernorm(hidden))
        return output


class ShortLlava(LlavaForConditionalGeneration):  # type: ignore[misc]
    """Tells the last layer which positions `logits_to_keep` asks for."""

    @wraps(LlavaForConditionalGeneration.forward)
    def forward(self, *args: Any, logits_to_keep: int = 0, **kwargs: Any) -> Any:
        self.model.language_model.layers[-1].kept = slice(-logits_to_keep or None, None)
        return super().forward(*args, logits_to_keep=logits_to_keep, **kwargs)


def blocks_read(llava: LlavaConfig) -> int:
    """Number of the tower's blocks up to `vision_feature_layer`, the output that LLaVA reads."""
    layers = llava.vision_feature_layer
    outputs = llava.vision_config.num_hidden_layers + 1  # the embeddings count as the first
    return int(max(i % outputs for i in ([layers] if isinstance(layers, int) else layers)))


def skip_unread_blocks(model: LlavaForConditionalGeneration) -> None:
    """Skips the tower's blocks that LLaVA does not read."""
    blocks = model.model.vision_tower.encoder.layers
    for index in range(blocks_read(model.config), len(blocks)):
        blocks[index] = as_subclass(blocks[index], UnreadBlock)


def shorten_last_layer(model: LlavaForConditionalGeneration) -> ShortLlava:
    """Returns the model with a last layer that computes only what `logits_to_keep` asks for."""
    layers = model.model.language_model.layers
    layers[-1] = as_subclass(layers[-1], ShortLastLayer)
    return as_subclass(model, ShortLlava)


def trust_image_tokens(model: nn.Module) -> None:
    """Stops LLaVA from counting image tokens on the device."""
    found = [(name, m) for name, m in model.named_modules() if isinstance(m, LlavaModel)]
    for name, llava in found:
        model.set_submodule(name, as_subclass(llava, UncheckedLlava))


class UnmaskedLlama(LlamaModel):  # type: ignore[misc]
    """Computes whole sequences without a mask and without a cache, if neither is given.

    transformers looks into the positions whether several sequences are packed into one. It would
    wait for the GPU, and a CUDA graph could not be recorded.
    """

    def forward(self, inputs_embeds: Tensor | None = None, **given: Any) -> Any:
        settings = "attention_mask", "position_ids", "past_key_values"
        plain = given.get("use_cache") is False and all(given.get(n) is None for n in settings)
        if inputs_embeds is None or not plain:
            return super().forward(inputs_embeds=inputs_embeds, **given)
        places = torch.arange(inputs_embeds.shape[1], device=inputs_embeds.device)[None]
        rotation, hidden = self.rotary_emb(inputs_embeds, position_ids=places), inputs_embeds
        for layer in self.layers:
            hidden = layer(hidden, position_embeddings=rotation)
        return BaseModelOutputWithPast(last_hidden_state=self.norm(hidden))


def skip_masks(model: LlavaForConditionalGeneration) -> None:
    """Makes no mask for sequences that are whole and not padded in front."""
    model.model.language_model = as_subclass(model.model.language_model, UnmaskedLlama)


class UnpackedLinear4bit(Linear4bit):  # type: ignore[misc]
    """A 4-bit layer with a 16-bit copy of its weights: same numbers, no unpacking in each pass."""

    unpacked: Tensor

    def forward(self, x: Tensor) -> Tensor:
        weight = self.unpacked
        return linear(x.to(weight.dtype), weight, self.bias).to(x.dtype)


def unpack(model: nn.Module) -> None:
    """Swaps every 4-bit layer for an unpacked one. Takes four times the packed weights' memory."""
    packed = [(name, m) for name, m in model.named_modules() if isinstance(m, Linear4bit)]
    for name, layer in packed:
        swapped = as_subclass(layer, UnpackedLinear4bit)
        # An attribute, not a buffer: it is in no state dict, and DDP does not broadcast it.
        swapped.unpacked = unpacked_weight(layer)
        model.set_submodule(name, swapped)


def unpacked_weight(layer: Any) -> Tensor:
    """The layer's weight, `(out, in)`, in the dtype it computes in."""
    weight: Tensor = layer.weight.data
    if isinstance(layer, UnpackedLinear4bit):
        weight = layer.unpacked
    elif isinstance(layer, Linear4bit):
        weight = dequantize_4bit(weight, layer.weight.quant_state).to(layer.compute_dtype)
    return weight


def free_bytes(device: torch.device) -> int:
    """GPU memory that this process can still use: at most its
    `torch.cuda.set_per_process_memory_fraction`.
    """
    free, total = torch.cuda.mem_get_info(device)
    allocated = torch.cuda.memory_allocated(device)
    cached = torch.cuda.memory_reserved(device) - allocated
    share = torch.cuda.get_per_process_memory_fraction(device)
    return min(free + cached, int(share * total) - allocated)
