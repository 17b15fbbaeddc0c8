"""Checks that the labels fit the settings, before anything slow begins.

`evaluate.max_count` must allow every label: evaluate would refuse after the training. With
`image.tiles` the frames need points. A warning says when too few frames are for evaluation.
"""

from collections.abc import Iterator
from pathlib import Path

from llava_dvc.checks.check import Check, raise_first_fault
from llava_dvc.checks.inputs import DATA
from llava_dvc.config import Config
from llava_dvc.data.labels import scan_labels
from llava_dvc.data.points import POINTS
from llava_dvc.dataset import load_split
from llava_dvc.errors import count_above_max, few_frames, tiles_without_points
from llava_dvc.training.points import have_points


def require_label_range(cfg: Config, prepared: Path) -> None:
    """Raises UserError if a label in `prepared` is above `evaluate.max_count`, or if tiles need
    points and there are none.
    """
    raise_first_fault([check_label_range(cfg, prepared), check_tile_points(cfg, prepared)])


def check_label_range(cfg: Config, prepared: Path, data: Path = DATA) -> Check:
    """The largest label in `prepared`, or in `data` if prepare has not run."""
    count, frame = max(_labelled_frames(cfg, prepared, data), default=(0, ""))
    limit = cfg.evaluate.max_count
    found = f"{count} people at most, evaluate.max_count is {limit}" if frame else "no labels yet"
    fault = str(count_above_max(limit, frame, count)) if count > limit else None
    return Check("label range", found, fault)


def check_tile_points(cfg: Config, prepared: Path, data: Path = DATA) -> Check:
    """`prepared` has points if frames are cut into tiles, or `data` if prepare has not run."""
    tiles = cfg.image.tiles
    if tiles == (1, 1):
        return Check("tiles", "whole frames")
    if (prepared / "train").is_dir():
        found = have_points(load_split(prepared, "train"))
    else:
        found = not (data / "labels.csv").is_file() or (data / POINTS).is_file()
    fault = None if found else str(tiles_without_points(tiles))
    return Check("tiles", f"{tiles[0]} x {tiles[1]}, counted by points", fault)


def check_eval_frames(cfg: Config, prepared: Path) -> Check:
    """How many frames `prepared` has to evaluate on."""
    if not (prepared / "eval").is_dir():
        return Check("evaluation", f"not known before `dvc repro prepare` has made {prepared}/")
    frames = len(load_split(prepared, "eval"))
    return Check("evaluation", f"{frames} frames", note=few_frames(frames) or None)


def _labelled_frames(cfg: Config, prepared: Path, data: Path) -> Iterator[tuple[int, str]]:
    splits = [name for name in ("train", "val", "eval") if (prepared / name).is_dir()]
    if splits:
        for name in splits:
            rows = load_split(prepared, name).select_columns(["count", "frame"])
            yield from zip(rows["count"][:], rows["frame"][:], strict=True)
    elif (data / "labels.csv").is_file():
        for label in scan_labels(data / "labels.csv", cfg.data.exclude).rows:
            yield label.count, label.name
