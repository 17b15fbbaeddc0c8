"""Splits the frames into train, val and eval."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from llava_dvc import config
from llava_dvc.errors import UserError

BLOCK = 50
"""Frames in a block: on Mall the counts of frames 50 apart correlate by only 0.19."""

TRAIN, VAL, EVAL, LEFT_OUT = range(4)

Parts = NDArray[np.int_]
"""For each frame TRAIN, VAL, EVAL or LEFT_OUT, in order of time."""

Positions = NDArray[np.intp]
"""Positions in the list of frames."""


@dataclass(frozen=True)
class FrameSplit:
    """Positions in the list of frames, ascending; `left_out` are the gaps between splits."""

    train: list[int]
    val: list[int]
    eval: list[int]
    left_out: list[int]


def split_frames(
    numbers: Sequence[int], cameras: Sequence[str | None], settings: config.Split, seed: int
) -> FrameSplit:
    """Splits frames by the section `split` of params.yaml; raises UserError if a split is empty.

    `numbers` are the frames' numbers in time, `cameras` their cameras. Numbers that repeat count
    within a camera; the list is then in order of name. `eval` and `val` are shares of all frames.
    `gap` counts frames of one camera. The strategies:

    temporal: within every camera first train, then val, then eval. `gap` frames before val and
    before eval are left out, and train has so many fewer. With `train_until`, eval has the frames
    after that number, without the gap.
    blocked: neighbouring frames stay together in blocks of 50, or of the smaller share if that is
    fewer. `seed` shuffles the blocks. Gaps are taken from train first, then from val.
    random: `seed` shuffles single frames, without gaps. Neighbours get into different splits, so
    that eval's labels can be guessed from train's.
    camera: `seed` shuffles whole cameras. eval, then val, takes cameras until it has its share.
    """
    n = len(numbers)
    order = np.argsort(_timeline(numbers), kind="stable")
    by_camera = _frames_by_camera(cameras, order)
    parts = np.empty(n, dtype=int)
    match settings.strategy:
        case "temporal":
            for frames in by_camera:
                parts[frames] = _split_in_time(np.asarray(numbers)[frames], settings)
        case "blocked":
            parts[order] = _shuffle_blocks(n, settings, seed)
            for frames in by_camera:
                parts[frames] = _leave_gaps(parts[frames], settings.gap)
        case "random":
            parts[order] = _shuffle(n, settings, seed)
        case "camera":
            parts[order] = _split_cameras([cameras[i] for i in order], settings, seed)
    train, val, held_out, left_out = (
        np.flatnonzero(parts == part).tolist() for part in (TRAIN, VAL, EVAL, LEFT_OUT)
    )
    split = FrameSplit(train, val, held_out, left_out)
    _require_frames(split, n, settings, len(by_camera))
    return split


def interpolate_labels(
    numbers: Sequence[int], cameras: Sequence[str | None], counts: ArrayLike, split: FrameSplit
) -> NDArray[np.float64]:
    """A count for each eval frame, interpolated in time from the labels of train and val.

    It looks at no image. A small error shows that the split leaks. Before the first and after the
    last known label the nearest label is taken. The labels are those of the same camera, or of all
    cameras if the camera is only in eval.
    """
    when, people = np.asarray(_timeline(numbers), dtype=float), np.asarray(counts, dtype=float)
    guess = np.empty(len(when))
    labelled = np.isin(np.arange(len(when)), split.train + split.val)
    for frames in _frames_by_camera(cameras, np.argsort(when, kind="stable")):
        known = frames[labelled[frames]] if labelled[frames].any() else np.flatnonzero(labelled)
        known = known[np.argsort(when[known], kind="stable")]
        guess[frames] = np.interp(when[frames], when[known], people[known])
    return guess[split.eval]


def _timeline(numbers: Sequence[int]) -> Sequence[int]:
    """Numbers over all cameras: positions in the list if `numbers` count within each camera."""
    return numbers if len(set(numbers)) == len(numbers) else range(1, len(numbers) + 1)


def _frames_by_camera(cameras: Sequence[str | None], order: Positions) -> list[Positions]:
    """Positions of each camera's frames, in `order`."""
    names = np.array([camera or "" for camera in cameras])[order]
    return [order[names == name] for name in np.unique(names)]


def _split_in_time(numbers: NDArray[np.int_], settings: config.Split) -> Parts:
    """Parts of one camera's frames; `numbers` ascend."""
    n, gap, until = len(numbers), settings.gap, settings.train_until
    parts = np.full(n, LEFT_OUT)
    if until is None:
        eval_start = n - round(settings.eval * n)
    else:
        eval_start = int((numbers <= until).sum()) + gap
    val_end = eval_start - gap
    val_start = max(val_end - round(settings.val * n), 0)
    parts[max(eval_start, 0) :] = EVAL
    parts[val_start : max(val_end, 0)] = VAL
    parts[: max(val_start - gap, 0)] = TRAIN
    return parts


def _shuffle_blocks(n: int, settings: config.Split, seed: int) -> Parts:
    """Parts of `n` frames, without gaps."""
    size = max(1, min(BLOCK, int(n * min(settings.eval, settings.val))))
    blocks = max(1, n // size)
    return _shuffle(blocks, settings, seed)[np.arange(n) * blocks // max(n, 1)]


def _leave_gaps(parts: Parts, gap: int) -> Parts:
    """`parts` of one camera's frames with `gap` frames left out between splits."""
    parts[(parts == VAL) & _is_near(parts == EVAL, gap)] = LEFT_OUT
    parts[(parts == TRAIN) & _is_near((parts == EVAL) | (parts == VAL), gap)] = LEFT_OUT
    return parts


def _is_near(mask: NDArray[np.bool_], gap: int) -> NDArray[np.bool_]:
    """For each position: whether `mask` is true at most `gap` positions away."""
    n = len(mask)
    before = np.concatenate([[0], np.cumsum(mask)])
    here = np.arange(n)
    near: NDArray[np.bool_] = (
        before[np.minimum(n, here + gap + 1)] > before[np.maximum(0, here - gap)]
    )
    return near


def _shuffle(n: int, settings: config.Split, seed: int) -> Parts:
    """Parts of `n` frames or blocks."""
    evals, vals = round(settings.eval * n), round(settings.val * n)
    parts = np.full(n, TRAIN)
    order = np.random.default_rng(seed).permutation(n)
    parts[order[:evals]] = EVAL
    parts[order[evals : evals + vals]] = VAL
    return parts


def _split_cameras(cameras: Sequence[str | None], settings: config.Split, seed: int) -> Parts:
    names = sorted({camera or "" for camera in cameras})
    if len(names) < 3 or "" in names:
        raise UserError(
            f"params.yaml: split.strategy is camera, but data/labels.csv names "
            f"{len([name for name in names if name])} cameras. Give every frame a `camera`, with "
            "at least three different ones, or set split.strategy to temporal."
        )
    sizes = {name: sum(camera == name for camera in cameras) for name in names}
    waiting = np.random.default_rng(seed).permutation(names).tolist()
    part_of = dict.fromkeys(names, TRAIN)
    for part, share in ((EVAL, settings.eval), (VAL, settings.val)):
        taken = 0
        while taken < share * len(cameras) and waiting:
            part_of[waiting[0]] = part
            taken += sizes[waiting.pop(0)]
    return np.array([part_of[str(camera)] for camera in cameras])


def _require_frames(split: FrameSplit, n: int, settings: config.Split, cameras: int) -> None:
    parts = {"train": split.train, "val": split.val, "eval": split.eval}
    empty = [name for name, positions in parts.items() if not positions]
    if empty:
        until = settings.train_until
        boundary = "" if until is None else f", split.train_until {until}"
        of_cameras = settings.strategy == "temporal" and cameras > 1
        raise UserError(
            f"params.yaml: split.eval {settings.eval}, split.val {settings.val}, split.gap "
            f"{settings.gap}{boundary} leave {' and '.join(empty)} without a frame, of {n}"
            f"{f' of {cameras} cameras, each split in time' if of_cameras else ''}. Lower "
            f"split.gap, change the shares{' or split.train_until' if boundary else ''}, or add "
            f"frames{', or set split.strategy to camera' if of_cameras else ''}."
        )
