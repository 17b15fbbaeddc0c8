"""Triton kernels for what torch.compile leaves slow beside FP8 products. GPUs only.

Each has a plain twin in `products.py`, which says what it computes.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE = 128
"""Rows and columns of an output that one program computes."""
RANKS = {16, 32, 64, 128}
"""Ranks of an adapter that are multiplied at once."""
CHUNK = 4096
"""Columns of a row that are in registers at once."""
HEADS = 16
"""Heads of a token that are in registers at once."""


def add_low_rank(total: Tensor, low: Tensor, up: Tensor, blocks: int) -> Tensor:
    """Adds `low` times the transposed `up` to `total` in place. Returns `total`. `up` has this many
    equal blocks on its diagonal, and zeros elsewhere.

    cuBLAS takes 1.3 times as long for wide outputs: the time goes into reading and writing `total`.
    It does what does not fit into tiles.
    """
    (rows, columns), ranks = total.shape, low.shape[1] // blocks
    if columns % (TILE * blocks) or ranks not in RANKS:
        return total.addmm_(low, up.t())
    grid = columns // TILE, triton.cdiv(rows, TILE)
    _add_low_rank[grid](
        total, low, up, rows, columns, columns // blocks, *low.stride(), *up.stride(),
        TILE=TILE, RANKS=ranks, num_warps=4,
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
        CHUNK=CHUNK, num_warps=16,
    )  # fmt: skip
    return gradient, rounded, scale


def rotated_gradient(
    heads: tuple[Tensor, Tensor, Tensor], rotation: tuple[Tensor, Tensor], weight_scale: Tensor,
    floor: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """The gradient of the projections, the same in e4m3, and the scales of its rows. `heads` are
    those of query, key and value.
    """
    heads = tuple(h if h.stride(-1) == 1 else h.contiguous() for h in heads)  # type: ignore[assignment]
    rows, _, tokens, width = heads[0].shape
    gradient = heads[0].new_empty(rows * tokens, width * sum(part.shape[1] for part in heads))
    rounded = torch.empty_like(gradient, dtype=torch.float8_e4m3fn)
    scale = torch.empty(len(gradient), 1, device=gradient.device)
    numbers = [number for part in heads for number in (part.shape[1], *part.stride()[:3])]
    of_row = [0 if len(part) == 1 else part.stride(0) for part in rotation]
    _rotated_gradient[(len(gradient),)](
        *heads, *rotation, weight_scale, gradient, rounded, scale, tokens, *numbers, *of_row, floor,
        HALF=width // 2, HEADS=HEADS, CHUNK=CHUNK, num_warps=8,
    )  # fmt: skip
    return gradient, rounded, scale


@triton.jit  # type: ignore[untyped-decorator]
def _add_low_rank(  # type: ignore[no-untyped-def]
    total, low, up, rows, columns, block, low_row, low_rank, up_row, up_rank,
    TILE: tl.constexpr, RANKS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(1) * TILE + tl.arange(0, TILE)[:, None]
    column = tl.program_id(0) * TILE + tl.arange(0, TILE)[None, :]
    first = tl.program_id(0) * TILE // block * RANKS
    across, down = (first + tl.arange(0, RANKS)[None, :], first + tl.arange(0, RANKS)[:, None])
    left = tl.load(low + row * low_row + across * low_rank, mask=row < rows, other=0.0)
    right = tl.load(up + column * up_row + down * up_rank)
    place = total + row.to(tl.int64) * columns + column
    tile = tl.load(place, mask=row < rows, other=0.0).to(tl.float32)
    tile = tl.dot(left, right, tile)
    tl.store(place, tile.to(total.dtype.element_ty), mask=row < rows)


@triton.jit  # type: ignore[untyped-decorator]
def _gated_gradient(  # type: ignore[no-untyped-def]
    gate_up, of_hidden, weight_scale, gradient, rounded, scale, width, floor, CHUNK: tl.constexpr
):
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
    _round(gradient + first, weight_scale, rounded + first, own, 2 * width, CHUNK)


@triton.jit  # type: ignore[untyped-decorator]
def _rotated_gradient(  # type: ignore[no-untyped-def]
    query, key, value, cos, sin, weight_scale, gradient, rounded, scale, tokens,
    queries, query_row, query_head, query_token, keys, key_row, key_head, key_token,
    values, value_row, value_head, value_token, cos_row, sin_row, floor,
    HALF: tl.constexpr, HEADS: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    place = tl.program_id(0).to(tl.int64)
    row, token = place // tokens, place % tokens
    width = 2 * HALF * (queries + keys + values)
    half = tl.arange(0, HALF)[None, :]
    turn = tl.load(cos + row * cos_row + token * 2 * HALF + half).to(tl.float32)
    lift = tl.load(sin + row * sin_row + token * 2 * HALF + half).to(tl.float32)
    out, largest = gradient + place * width, tl.zeros([HEADS, HALF], tl.float32)
    query += row * query_row + token * query_token
    largest = _unrotate(
        query, query_head, queries, turn, lift, out, weight_scale, largest, HEADS, HALF
    )
    out, weights = out + 2 * HALF * queries, weight_scale + 2 * HALF * queries
    key += row * key_row + token * key_token
    largest = _unrotate(key, key_head, keys, turn, lift, out, weights, largest, HEADS, HALF)
    out, weights = out + 2 * HALF * keys, weights + 2 * HALF * keys
    value += row * value_row + token * value_token
    still, none = tl.full([1, HALF], 1.0, tl.float32), tl.zeros([1, HALF], tl.float32)
    largest = _unrotate(value, value_head, values, still, none, out, weights, largest, HEADS, HALF)
    own = tl.div_rn(tl.maximum(tl.max(tl.max(largest, axis=1), axis=0), floor), 448.0)
    tl.store(scale + place, own)
    _round(gradient + place * width, weight_scale, rounded + place * width, own, width, CHUNK)


@triton.jit  # type: ignore[untyped-decorator]
def _unrotate(  # type: ignore[no-untyped-def]
    heads,
    stride,
    number,
    turn,
    lift,
    out,
    weights,
    largest,
    HEADS: tl.constexpr,
    HALF: tl.constexpr,
):
    """Turns the gradients of some heads back, writes them, and returns their largest number."""
    half = tl.arange(0, HALF)[None, :]
    for start in range(0, number, HEADS):
        head = start + tl.arange(0, HEADS)[:, None]
        inside, place = head < number, head * 2 * HALF + half
        first = tl.load(heads + head * stride + half, mask=inside, other=0.0).to(tl.float32)
        second = tl.load(heads + head * stride + HALF + half, mask=inside, other=0.0).to(tl.float32)
        left = (first * turn + second * lift).to(tl.bfloat16)
        right = (second * turn - first * lift).to(tl.bfloat16)
        tl.store(out + place, left, mask=inside)
        tl.store(out + place + HALF, right, mask=inside)
        left *= tl.load(weights + place, mask=inside, other=0.0)
        right *= tl.load(weights + place + HALF, mask=inside, other=0.0)
        largest = tl.maximum(largest, tl.maximum(tl.abs(left), tl.abs(right)))
    return largest


@triton.jit  # type: ignore[untyped-decorator]
def _round(  # type: ignore[no-untyped-def]
    row, weight_scale, rounded, scale, width, CHUNK: tl.constexpr
):  # fmt: skip
    """Rounds a row that this program has written to e4m3. It comes from the cache."""
    tl.debug_barrier()
    factor = tl.div_rn(1.0, scale)
    for start in range(0, width, CHUNK):
        place = start + tl.arange(0, CHUNK)
        inside = place < width
        part = tl.load(row + place, mask=inside, other=0.0).to(tl.float32)
        part *= tl.load(weight_scale + place, mask=inside, other=0.0)
        tl.store(rounded + place, (part * factor).to(tl.float8e4nv), mask=inside)
