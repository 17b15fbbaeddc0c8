"""`train.points`: an auxiliary loss on where the people stand. The label of a whole frame does not
tell the model whom it missed.

A linear head on the projector's output predicts the people per image token. Head points of
data/points.csv say how many they are. The head is dropped after training. Density maps for
counting: Lempitsky and Zisserman, "Learning to count objects in images", NeurIPS 2010.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.functional import softplus
from transformers.models.llava.modeling_llava import LlavaModel

POINT_HEAD = "point_head"
"""Name of the head in the projector."""
WEIGHTS = f"{POINT_HEAD}.safetensors"
"""File in a checkpoint."""

SCALE = 16.0  # divides a frame's Poisson loss: it is then as large as that of the answer
SUM_SHARE = 0.3  # weight of the error of the sum
TINY = 1e-6


class PointHead(nn.Module):
    """Predicts the people in every image token, from the projector's output of the same pass."""

    rates: Tensor
    """People per token in the last forward pass, `(frames, tokens)`."""

    def __init__(self, width: int, density: float) -> None:
        """`width` is that of the projector's output. It starts with `density` people a token."""
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width))
        self.bias = nn.Parameter(torch.full((1,), math.log(math.expm1(density))))

    def forward(self, features: Tensor) -> Tensor:
        with torch.autocast(features.device.type, enabled=False):
            return softplus(features.float() @ self.weight + self.bias)

    def read(self, _projector: nn.Module, _inputs: Any, features: Tensor) -> None:
        """Forward hook of the projector."""
        self.rates = self(features)

    def loss(self, density: Tensor) -> Tensor:
        """Mean over the frames of the last forward pass. `density` is `(frames, tokens)`.

        Poisson loss of every token, and the error of their sum in standard deviations of a Poisson
        distribution.
        """
        rates = self.rates.view_as(density)
        poisson = (rates - density * (rates + TINY).log()).sum(dim=1) / SCALE
        people = density.sum(dim=1)
        of_sum = (rates.sum(dim=1) - people).abs() / (1 + people).sqrt()
        return (poisson + SUM_SHARE * of_sum).mean()

    def save(self, checkpoint: Path, *, write: bool) -> None:
        """All processes must call this; one of them writes."""
        whole = {n: p.full_tensor() if isinstance(p, DTensor) else p for n, p in self._named()}
        if write:
            save_file({name: tensor.contiguous() for name, tensor in whole.items()}, checkpoint)

    def load(self, checkpoint: Path) -> None:
        """The inverse of `save`."""
        stored = load_file(checkpoint)
        for name, parameter in self._named():
            value = stored[name].to(parameter.device)
            if isinstance(parameter, DTensor):
                value = distribute_tensor(value, parameter.device_mesh, parameter.placements)
            parameter.copy_(value)

    def _named(self) -> list[tuple[str, Tensor]]:
        return [(name, parameter.detach()) for name, parameter in self.named_parameters()]


def have_points(rows: Dataset) -> bool:
    """Whether data/ had a points.csv. It has the points of all frames, or of none."""
    return rows[0].get("points") is not None


def add_point_head(model: Any, people: float, tokens: int) -> PointHead:
    """Adds the head to the model's projector. `people` are in a frame of `tokens` on average."""
    projector = _projector(model)
    head = PointHead(model.config.text_config.hidden_size, max(people, 1) / tokens)
    projector.add_module(POINT_HEAD, head.to(model.device))
    projector.point_hook = projector.register_forward_hook(head.read)
    return head


def remove_point_head(model: Any) -> None:
    """The model is then as before `add_point_head`."""
    projector = _projector(model)
    if hasattr(projector, POINT_HEAD):
        projector.point_hook.remove()
        del projector.point_hook, projector.point_head


def _projector(model: Any) -> Any:
    llava = next(module for module in model.modules() if isinstance(module, LlavaModel))
    return llava.multi_modal_projector


def token_density(
    places: Sequence[tuple[float, float]], grid: int, visible: Sequence[int] | None = None
) -> Tensor:
    """People per image token, row by row: `(grid * grid,)`, or those tokens that are `visible`.

    `places` are `(x, y)` in the square that the model sees, from 0 to 1. A person is shared by the
    four nearest tokens, by distance. Whoever is outside the square is not counted.
    """
    inside = [place for place in places if max(place) <= 1 and min(place) >= 0]
    centres = (torch.arange(grid) + 0.5) / grid
    near = 1 - (torch.tensor(inside).view(-1, 2, 1) - centres).abs() * grid  # (people, 2, grid)
    across, down = near.clamp(min=0).unbind(dim=1)
    shares = (down[:, :, None] * across[:, None]).flatten(1)
    if visible is not None:
        shares = shares[:, torch.tensor(visible)]
    return (shares / shares.sum(dim=1, keepdim=True)).sum(dim=0)
