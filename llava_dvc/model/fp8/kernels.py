"""Triton kernels for what torch.compile leaves slow beside FP8 products. GPUs only.

Each has a plain twin in `products.py`, which says what it computes.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE = 128
"""Rows and columns of an output that one program computes."""
RANKS = 64
"""Columns of `low` that are multiplied at once."""
CHUNK = 2048
"""Columns of a row that are in registers at once."""


def add_low_rank(total: Tensor, low: Tensor, up: Tensor) -> Tensor:
    """Adds `low` times the transposed `up` to `total` in place. Returns `total`.

    cuBLAS takes 1.3 times as long for wide outputs: the time goes into reading and writing `total`.
    """
    (rows, columns), ranks = total.shape, low.shape[1]
    grid = triton.cdiv(columns, TILE), triton.cdiv(rows, TILE)
    _add_low_rank[grid](
        total, low, up, rows, columns, ranks, *low.stride(), *up.stride(),
        TILE=TILE, RANKS=RANKS, num_warps=4,
    )  # fmt: skip
    return total


def gated_gradient(
    gate_up: Tensor, of_hidden: Tensor, weight_scale: Tensor, floor: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradient of `gate_up`, the same in e4m3, and the scales of its rows."""
    gradient = torch.empty_like(gate_up)
    rounded = torch.empty_like(gate_up, dtype=torch.float8_e4m3fn)
    scale = torch.empty(len(gate_up), 1, device=gate_up.device)
    _gated_gradient[(len(gate_up),)](
        gate_up, of_hidden, weight_scale, gradient, rounded, scale, of_hidden.shape[1], floor,
        CHUNK=CHUNK, num_warps=8,
    )  # fmt: skip
    return gradient, rounded, scale


@triton.jit  # type: ignore[untyped-decorator]
def _add_low_rank(
    total: Any, low: Any, up: Any, rows: Any, columns: Any, ranks: Any,
    low_row: Any, low_rank: Any, up_row: Any, up_rank: Any,
    TILE: tl.constexpr, RANKS: tl.constexpr,
) -> None:  # fmt: skip
    row = tl.program_id(1) * TILE + tl.arange(0, TILE)[:, None]
    column = tl.program_id(0) * TILE + tl.arange(0, TILE)[None, :]
    place = total + row.to(tl.int64) * columns + column
    inside = (row < rows) & (column < columns)
    tile = tl.load(place, mask=inside, other=0.0).to(tl.float32)
    for start in range(0, ranks, RANKS):
        across = start + tl.arange(0, RANKS)[None, :]
        down = start + tl.arange(0, RANKS)[:, None]
        left = (row < rows) & (across < ranks)
        right = (column < columns) & (down < ranks)
        tile = tl.dot(
            tl.load(low + row * low_row + across * low_rank, mask=left, other=0.0),
            tl.load(up + column * up_row + down * up_rank, mask=right, other=0.0),
            tile,
        )
    tl.store(place, tile.to(total.dtype.element_ty), mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def _gated_gradient(
    gate_up: Any, of_hidden: Any, weight_scale: Any, gradient: Any, rounded: Any, scale: Any,
    width: Any, floor: Any, CHUNK: tl.constexpr,
) -> None:  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    first, second = row * 2 * width, row * 2 * width + width
    largest = tl.zeros([CHUNK], tl.float32)
    for start in range(0, width, CHUNK):
        place = start + tl.arange(0, CHUNK)
        inside = place < width
        gate = tl.load(gate_up + first + place, mask=inside, other=0.0).to(tl.float32)
        up = tl.load(gate_up + second + place, mask=inside, other=0.0).to(tl.float32)
        hidden = tl.load(of_hidden + row * width + place, mask=inside, other=0.0).to(tl.float32)
        share = 1.0 / (1.0 + tl.exp(-gate))
        of_gate = hidden * up * share * (1.0 + gate * (1.0 - share))
        of_gate, of_up = of_gate.to(tl.bfloat16), (hidden * gate * share).to(tl.bfloat16)
        tl.store(gradient + first + place, of_gate, mask=inside)
        tl.store(gradient + second + place, of_up, mask=inside)
        of_gate *= tl.load(weight_scale + place, mask=inside, other=0.0)
        of_up *= tl.load(weight_scale + width + place, mask=inside, other=0.0)
        largest = tl.maximum(largest, tl.maximum(tl.abs(of_gate), tl.abs(of_up)))
    own = tl.div_rn(tl.maximum(tl.max(largest, axis=0), floor), 448.0)
    tl.store(scale + row, own)
    tl.debug_barrier()  # the gradient is read back below, from the cache
    factor = tl.div_rn(1.0, own)
    for start in range(0, 2 * width, CHUNK):
        place = start + tl.arange(0, CHUNK)
        inside = place < 2 * width
        part = tl.load(gradient + first + place, mask=inside, other=0.0).to(tl.float32)
        part *= tl.load(weight_scale + place, mask=inside, other=0.0)
        tl.store(rounded + first + place, (part * factor).to(tl.float8e4nv), mask=inside)
