"""Attention for a prompt and the tree of written numbers behind it.

Only the tree's nodes need a mask. The prompt's tokens take most of the time, and are causal: fast
kernels need no mask for them.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

NAME = "prompt_and_tree"


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """Attention's output, `(rows, heads, queries, width)`. `key` and `value` may have fewer heads.

    `mask` is additive. If it has fewer rows than there are queries, it is for the last ones. The
    queries before them are causal. They do not see the keys of the masked ones.
    """
    masked = 0 if mask is None else mask.shape[-2]
    free = query.shape[2] - masked
    parts = []
    if free:
        seen = key.shape[2] - masked
        parts.append(
            scaled_dot_product_attention(
                query[:, :, :free],
                key[:, :, :seen],
                value[:, :, :seen],
                None if free in (1, seen) else _causal_mask(free, seen, query.device),
                is_causal=free == seen > 1,
                scale=scale,
                enable_gqa=query.shape[1] > key.shape[1],
            )
        )
    if masked:
        parts.append(
            scaled_dot_product_attention(
                query[:, :, free:],
                key,
                value,
                mask,
                scale=scale,
                enable_gqa=query.shape[1] > key.shape[1],
            )
        )
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)


def _causal_mask(queries: int, keys: int, device: torch.device) -> Tensor:
    """Mask by which each of the last `queries` tokens sees itself and all keys before it."""
    return torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)


def _forward(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention as transformers calls it. Returns `(rows, queries, heads, width)`."""
    return attend(query, key, value, attention_mask, scaling).transpose(1, 2), None


AttentionInterface.register(NAME, _forward)
AttentionMaskInterface.register(NAME, sdpa_mask)
