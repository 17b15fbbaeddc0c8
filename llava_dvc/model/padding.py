"""`image.drop_border`: patches that show only padding get no tokens.

The vision tower still sees the padded frame. The language model gets the patches that show some of
the frame, each at its old position. The result is the same as masking the padding's tokens. A
640x480 frame needs a quarter less computation.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from transformers.models.llava.modeling_llava import LlavaModel

from llava_dvc import errors

Size = tuple[int, int]
"""Width and height in pixels."""


def visible_patches(size: Size, grid: int) -> list[int]:
    """Indices, row by row, of the `grid` x `grid` patches that show some of a padded frame."""
    longest = max(size)
    columns, rows = (
        range(before * grid // longest, -(-(before + length) * grid // longest))
        for length in size
        for before in [(longest - length) // 2]
    )
    return [row * grid + column for row in rows for column in columns]


def require_one_size(sizes: Iterable[Size], tiles: tuple[int, int] = (1, 1)) -> Size:
    """Returns the size that all frames have, or all `tiles` of them. Raises UserError when they
    have several: each size has its own padding, and a batch can have only one.
    """
    first, *others = dict.fromkeys(sizes)
    if others:
        raise errors.mixed_frame_sizes(first, others[0], tiles)
    return first


class DroppedPadding:
    """The tokens to drop for frames of one size."""

    def __init__(self, size: Size, grid: int, start: int) -> None:
        """`grid` is the number of patches on each side, `start` the position of the first image
        token.
        """
        self.size, self.grid, self.start = size, grid, start
        self.visible = visible_patches(size, grid)

    @property
    def dropped(self) -> int:
        """Number of dropped tokens per frame."""
        return self.grid**2 - len(self.visible)

    def drop(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Returns the batch without the dropped tokens."""
        keep = torch.ones(batch["input_ids"].shape[1], dtype=torch.bool)
        keep[self.start : self.start + self.grid**2] = False
        keep[self.start + torch.tensor(self.visible)] = True
        names = batch.keys() & {"input_ids", "attention_mask"}
        return batch | {name: batch[name][:, keep] for name in names}

    def positions(self, length: int) -> Tensor:
        """Position, in the full sequence of `length` tokens, of each token that is kept."""
        image = self.start + torch.tensor(self.visible)
        after = torch.arange(self.start + self.grid**2, length)
        return torch.cat([torch.arange(self.start), image, after])


def drop_padding(model: Any, padding: DroppedPadding | None) -> None:
    """Makes `model` accept batches that `padding` has shortened, until the next call.

    Projects only the visible patches. Rotates every token by its position in the full sequence.
    Does nothing for None, also not undo an earlier call. Batches of one length use the same memory
    in every call: a CUDA graph reads it where it was.
    """
    if padding is None:
        return
    llava = next(module for module in model.modules() if isinstance(module, LlavaModel))
    projector, rotary = llava.multi_modal_projector, llava.language_model.rotary_emb
    if not hasattr(projector, "visible_patches"):
        projector.register_forward_pre_hook(_select)
        rotary.register_forward_pre_hook(_move, with_kwargs=True)
        projector.buffers_by_length, rotary.buffers_by_length = {}, {}
    length = llava.config.text_config.max_position_embeddings
    visible, positions = torch.tensor(padding.visible), padding.positions(length)
    projector.visible_patches = _kept_in_place(projector.buffers_by_length, visible, model.device)
    rotary.kept_positions = _kept_in_place(rotary.buffers_by_length, positions, model.device)


def _kept_in_place(buffers: dict[int, Tensor], values: Tensor, device: torch.device) -> Tensor:
    """Writes the values into the buffer of their length, or makes one. Returns the buffer."""
    buffer = buffers.setdefault(len(values), torch.empty_like(values, device=device))
    return buffer.copy_(values)


def _select(projector: Any, features: tuple[Tensor]) -> tuple[Tensor]:
    return (features[0][:, projector.visible_patches],)


def _move(rotary: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    return args, kwargs | {"position_ids": rotary.kept_positions[kwargs["position_ids"]]}
