"""Muon for the weight matrices: each step moves all directions of a matrix by the same amount."""

import math
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

MOMENTUM = 0.95
LIKE_ADAM = 0.2  # root mean square of an AdamW step, so that both use one learning rate


class Muon(Optimizer):
    """Nesterov momentum, orthogonalised (Jordan et al. 2024), scaled to AdamW's step size.

    Matrices of one shape in one part of the model form a group and are multiplied together.
    """

    def __init__(self, matrices: Iterable[tuple[str, nn.Parameter]], rate: Tensor, decay: float):
        alike: dict[tuple[object, ...], list[nn.Parameter]] = defaultdict(list)
        for name, matrix in matrices:
            alike["language_model" in name, *matrix.shape].append(matrix)
        groups = [{"params": params} for params in alike.values()]
        super().__init__(groups, {"lr": rate, "weight_decay": decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if params:
                self._move(params, group["lr"], group["weight_decay"])

    def _move(self, params: list[nn.Parameter], rate: Tensor, decay: float) -> None:
        gradients = torch.stack([p.grad for p in params if p.grad is not None])
        state = self.state[params[0]]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(gradients)
        momentum = state["momentum"].lerp_(gradients, 1 - MOMENTUM)
        update = orthogonal(gradients.lerp(momentum, MOMENTUM))
        size = LIKE_ADAM * math.sqrt(max(update.shape[1:]))
        torch._foreach_mul_(params, 1 - rate * decay)
        torch._foreach_add_(params, list((update * (-size * rate)).unbind()))


def orthogonal(matrices: Tensor) -> Tensor:
    """Moves all singular values of (n, rows, columns) close to 1 by Newton-Schulz iteration."""
    x = matrices.bfloat16() if matrices.is_cuda else matrices
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(5):
        square = x @ x.mT
        x = 3.4445 * x + (2.0315 * square @ square - 4.7750 * square) @ x
    return (x.mT if tall else x).to(matrices.dtype)


def build_optimizers(
    model: nn.Module, rate: Tensor, decay: float, muon: bool
) -> tuple[Optimizer, ...]:
    """Muon for the layers' matrices; AdamW for embeddings, heads and vectors, these undecayed."""
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    matrices = [(n, p) for n, p in named if muon and p.ndim == 2 and _is_inner(n)]
    chosen = {id(p) for _, p in matrices}
    rest = [p for _, p in named if id(p) not in chosen]
    groups = [
        {"params": [p for p in rest if p.ndim >= 2], "weight_decay": decay},
        {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0},
    ]
    on_cuda = rate.is_cuda
    adam = AdamW(groups, lr=rate, betas=(0.9, 0.98), fused=True, capturable=on_cuda)
    return (adam, Muon(matrices, rate, decay)) if matrices else (adam,)


def _is_inner(name: str) -> bool:
    return ".layers." in name or "multi_modal_projector" in name
