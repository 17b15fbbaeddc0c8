"""`image.drop_border`: the border that `pad` puts around a frame takes no tokens.

The vision tower still sees it. The language model gets the patches that show some of the frame,
each at the place it would have had: the same as hiding the border's tokens from attention, with a
quarter less to compute for a 640x480 frame.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from transformers import LlavaProcessor
from transformers.models.llava.modeling_llava import LlavaModel

from llava_dvc.errors import UserError

Size = tuple[int, int]


def patches_of_frame(size: Size, grid: int) -> list[int]:
    """Which of `grid` x `grid` patches, row by row, show some of a padded frame of `size` (width,
    height).
    """
    longest = max(size)
    columns, rows = (
        range(before * grid // longest, -(-(before + length) * grid // longest))
        for length in size
        for before in [(longest - length) // 2]
    )
    return [row * grid + column for row in rows for column in columns]


def one_size(sizes: Iterable[Size]) -> Size:
    """The size that all frames have. Raises UserError when there are several: each would have a
    border of its own, and a model is settled on one.
    """
    first, *others = dict.fromkeys(sizes)
    if others:
        raise UserError(
            f"image.drop_border: is true, but frames are {_name(first)} and {_name(others[0])}; "
            "bring all to one size, or set it to false and train anew"
        )
    return first


class Border:
    """What of the frames of one size takes no tokens; `settle` has to be called before `drop`."""

    size: Size
    """Of every frame."""
    kept: list[int]
    """Patches that stay."""
    start: int
    """Where a sequence's image begins."""

    def __init__(self, grid: int) -> None:
        self.grid = grid

    def settle(self, model: Any, processor: LlavaProcessor, prompt: str, size: Size) -> None:
        """Make `model` and this fit for frames of `size` behind the beginning of `prompt`."""
        before, _, _ = prompt.partition(processor.image_token)
        self.start = len(processor.tokenizer(before, add_special_tokens=False).input_ids)
        self.size, self.kept = size, patches_of_frame(size, self.grid)
        llava = next(module for module in model.modules() if isinstance(module, LlavaModel))
        hooked = hasattr(llava, "kept_patches")
        llava.kept_patches = torch.tensor(self.kept, device=model.device)
        llava.kept_places = self._places(llava.config.text_config.max_position_embeddings)
        llava.kept_places = llava.kept_places.to(model.device)
        if not hooked:
            _hook(llava)

    def _places(self, length: int) -> Tensor:
        """The place, in a sequence with all patches, of every token that stays."""
        image = self.start + torch.tensor(self.kept)
        behind = torch.arange(self.start + self.grid**2, length)
        return torch.cat([torch.arange(self.start), image, behind])

    @property
    def dropped(self) -> int:
        """How many tokens a frame is shorter."""
        return self.grid**2 - len(self.kept)

    def drop(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The batch without its border's image tokens."""
        stay = torch.ones(batch["input_ids"].shape[1], dtype=torch.bool)
        stay[self.start : self.start + self.grid**2] = False
        stay[self.start + torch.tensor(self.kept)] = True
        names = batch.keys() & {"input_ids", "attention_mask"}
        return batch | {name: batch[name][:, stay] for name in names}


def _hook(llava: LlavaModel) -> None:
    """Projected are the patches that stay; the rotary embedding turns every token by its place."""

    def choose(_: Any, features: tuple[Tensor]) -> tuple[Tensor]:
        return (features[0][:, llava.kept_patches],)

    def move(_: Any, given: Any, named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return given, named | {"position_ids": llava.kept_places[named["position_ids"]]}

    llava.multi_modal_projector.register_forward_pre_hook(choose)
    llava.language_model.rotary_emb.register_forward_pre_hook(move, with_kwargs=True)


def _name(size: Size) -> str:
    return f"{size[0]}x{size[1]}"
