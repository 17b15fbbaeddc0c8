"""Which frames train, which choose the checkpoint, which evaluate; and how far that leaks."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from llava_dvc.errors import UserError

BLOCK = 50
"""Frames in a block: on Mall the counts of frames 50 apart correlate by only 0.19."""

TRAIN, VAL, EVAL, LEFT_OUT = range(4)


@dataclass(frozen=True)
class Split:
    """Positions in the list of frames, ascending; `left_out` are the gaps."""

    train: list[int]
    val: list[int]
    eval: list[int]
    left_out: list[int]


def split_frames(
    ids: Sequence[int],
    cameras: Sequence[str | None],
    strategy: str,
    eval: float,
    val: float,
    gap: int,
    train_until: int | None,
    seed: int,
) -> Split:
    """Deal the frames whose numbers in time are `ids`, each of one of `cameras`; `eval` and `val`
    are shares of them all.

    temporal: train, then val, then eval, `gap` frames left out before val and before eval (they
    come off train). With `train_until`, frames after that number evaluate, less the gap.
    blocked: neighbouring frames stay together in blocks of at least 50, or of the smaller share
    when that is fewer; `seed` deals the blocks, and gaps come off train first, then off val.
    random: frame by frame, without gaps; neighbours land on both sides, so it leaks.
    camera: whole cameras, dealt by `seed`, until eval and then val have at least their share: how
    well it counts where it never was.
    """
    if train_until is None and eval + val >= 1:
        raise UserError(
            f"params.yaml: split.eval {eval} and split.val {val} add up to {eval + val:g}, which "
            "leaves nothing to train on. Lower one: together they must stay below 1."
        )
    if train_until is not None and strategy != "temporal":
        raise UserError(
            f"params.yaml: split.train_until is {train_until}, but split.strategy is {strategy}. "
            "Set train_until to null, or strategy to temporal."
        )
    n = len(ids)
    order = np.argsort(ids, kind="stable")
    match strategy:
        case "temporal":
            first = None if train_until is None else int((np.array(ids) <= train_until).sum())
            dealt = _temporal(n, round(eval * n), round(val * n), gap, first)
        case "blocked":
            dealt = _blocked(n, eval, val, gap, seed)
        case "random":
            dealt = _random(n, round(eval * n), round(val * n), seed)
        case "camera":
            dealt = _by_camera([cameras[i] for i in order], eval * n, val * n, seed)
        case _:
            raise UserError(
                f"params.yaml: split.strategy is {strategy!r}. Write temporal, blocked, random or "
                "camera."
            )
    parts = np.empty(n, dtype=int)
    parts[order] = dealt
    train, validation, evaluation, left_out = (
        np.flatnonzero(parts == part).tolist() for part in range(4)
    )
    split = Split(train, validation, evaluation, left_out)
    _require_frames(split, n, eval, val, gap, train_until)
    return split


def interpolate(times: ArrayLike, counts: ArrayLike, split: Split) -> NDArray[np.float64]:
    """People on each eval frame, from train and val labels in time alone: no image is seen.

    Outside the known labels the nearest holds.
    """
    when, people = np.asarray(times, dtype=float), np.asarray(counts, dtype=float)
    known = np.array(split.train + split.val)
    known = known[np.argsort(when[known], kind="stable")]
    guess: NDArray[np.float64] = np.interp(when[split.eval], when[known], people[known])
    return guess


def blind_interpolation(times: ArrayLike, counts: ArrayLike, split: Split) -> float:
    """MAE on eval, in people, of `interpolate`: what the split gives away."""
    people = np.asarray(counts, dtype=float)[split.eval]
    return float(np.abs(interpolate(times, counts, split) - people).mean())


def _temporal(n: int, evals: int, vals: int, gap: int, first: int | None) -> NDArray[np.int_]:
    """`first` frames train or validate if given; else eval has the last `evals`."""
    parts = np.full(n, LEFT_OUT)
    eval_start = n - evals if first is None else first + gap
    val_end = eval_start - gap
    val_start = max(val_end - vals, 0)
    parts[max(eval_start, 0) :] = EVAL
    parts[val_start : max(val_end, 0)] = VAL
    parts[: max(val_start - gap, 0)] = TRAIN
    return parts


def _blocked(n: int, eval: float, val: float, gap: int, seed: int) -> NDArray[np.int_]:
    size = max(1, min(BLOCK, int(n * min(eval, val))))
    blocks = max(1, n // size)
    dealt = _random(blocks, round(eval * blocks), round(val * blocks), seed)
    parts = dealt[np.arange(n) * blocks // max(n, 1)]
    parts[(parts == VAL) & _near(parts == EVAL, gap)] = LEFT_OUT
    parts[(parts == TRAIN) & _near((parts == EVAL) | (parts == VAL), gap)] = LEFT_OUT
    return parts


def _near(mask: NDArray[np.bool_], gap: int) -> NDArray[np.bool_]:
    """Positions with a true one at most `gap` away."""
    n = len(mask)
    before = np.concatenate([[0], np.cumsum(mask)])
    here = np.arange(n)
    near: NDArray[np.bool_] = (
        before[np.minimum(n, here + gap + 1)] > before[np.maximum(0, here - gap)]
    )
    return near


def _random(n: int, evals: int, vals: int, seed: int) -> NDArray[np.int_]:
    parts = np.full(n, TRAIN)
    order = np.random.default_rng(seed).permutation(n)
    parts[order[:evals]] = EVAL
    parts[order[evals : evals + vals]] = VAL
    return parts


def _by_camera(
    cameras: Sequence[str | None], evals: float, vals: float, seed: int
) -> NDArray[np.int_]:
    names = sorted({camera or "" for camera in cameras})
    if len(names) < 3 or "" in names:
        raise UserError(
            f"params.yaml: split.strategy is camera, but data/labels.csv names "
            f"{len([name for name in names if name])} cameras. Give every frame a `camera`, three "
            "different ones at least, or set strategy to temporal."
        )
    sizes = {name: sum(camera == name for camera in cameras) for name in names}
    waiting = np.random.default_rng(seed).permutation(names).tolist()
    part_of = dict.fromkeys(names, TRAIN)
    for part, wanted in ((EVAL, evals), (VAL, vals)):
        taken = 0
        while taken < wanted and waiting:
            part_of[waiting[0]] = part
            taken += sizes[waiting.pop(0)]
    return np.array([part_of[str(camera)] for camera in cameras])


def _require_frames(
    split: Split, n: int, eval: float, val: float, gap: int, train_until: int | None
) -> None:
    names = {"train": split.train, "val": split.val, "eval": split.eval}
    empty = [name for name, positions in names.items() if not positions]
    if empty:
        until = "" if train_until is None else f", split.train_until {train_until}"
        raise UserError(
            f"params.yaml: split.eval {eval}, split.val {val}, split.gap {gap}{until} leave "
            f"{' and '.join(empty)} without a frame, of {n}. Lower the gap, change the shares or "
            "the boundary, or add frames."
        )
