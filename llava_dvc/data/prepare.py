"""Writes the checked frames as the splits of `prepared/`, and a report about them."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count, repeat
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from datasets import Dataset, DatasetDict

from llava_dvc.conversation import Conversation
from llava_dvc.data.data_errors import DataError, DataProblem, count_kinds, problem_rows
from llava_dvc.data.frames import Frame
from llava_dvc.data.images import stored_bytes
from llava_dvc.data.split import FrameSplit, interpolate_labels
from llava_dvc.data.zones import painted_bytes
from llava_dvc.dataset import FEATURES, Row
from llava_dvc.files import new_folder, sha256, write_json
from llava_dvc.metrics import baseline_metrics

PARTS = ("train", "val", "eval")

LEAK_REMEDIES = {
    "random": "Set split.strategy to temporal",
    "blocked": "Raise split.gap, or set split.strategy to temporal",
    "temporal": "Raise split.gap",
}
"""What to do about a split that leaks, by strategy."""


def split_rows(
    frames: Sequence[Frame], conversations: Sequence[Conversation], split: FrameSplit, seed: int
) -> dict[str, Iterator[Row]]:
    """The rows of train, val and eval; an image is read when its row is taken.

    `seed` spreads the conversations evenly over the training frames. val and eval ask the first
    one.
    """
    order = np.random.default_rng(seed).permutation(len(split.train)) % len(conversations)
    first = conversations[0]
    return {
        "train": _rows_of(frames, split.train, (conversations[index] for index in order)),
        "val": _rows_of(frames, split.val, repeat(first)),
        "eval": _rows_of(frames, split.eval, repeat(first)),
    }


def build_dataset(
    frames: Sequence[Frame], conversations: Sequence[Conversation], split: FrameSplit, seed: int
) -> DatasetDict:
    """The splits in memory, for a few frames."""
    parts = split_rows(frames, conversations, split, seed)
    return DatasetDict(
        {name: Dataset.from_list(list(rows), features=FEATURES) for name, rows in parts.items()}
    )


def frame_numbers(frames: Sequence[Frame]) -> list[int]:
    """The number in time of each frame: NNNNNN of seq_NNNNNN.jpg.

    If any frame has another name, positions within its camera, counted from 1.
    """
    matches = [re.fullmatch(r"seq_(\d{6})\.jpg", frame.name) for frame in frames]
    if all(matches):
        return [int(match[1]) for match in matches if match]
    positions: dict[str | None, Iterator[int]] = {}
    return [next(positions.setdefault(frame.camera, count(1))) for frame in frames]


def build_report(
    frames: Sequence[Frame],
    split: FrameSplit,
    data: Path,
    skipped: Sequence[DataProblem] = (),
    unlabelled: Sequence[str] | None = None,
) -> dict[str, Any]:
    """prepared/report.json: what is in the data, what was skipped, how it was split.

    `unlabelled` are the frames without a label, or None if there may be none.
    `blind_interpolation` scores `interpolate_labels`, which looks at no image: how far the split
    leaks. `best_constant` scores the median label of eval as the answer for every frame.
    """
    counts = np.array([frame.count for frame in frames])
    cameras = [frame.camera for frame in frames]
    parts = {"train": split.train, "val": split.val, "eval": split.eval}
    actual = counts[split.eval]
    guess = interpolate_labels(frame_numbers(frames), cameras, counts, split)
    return {
        "data_md5": data_md5(data),
        "frames": len(frames),
        **({} if unlabelled is None else {"unlabelled": len(unlabelled)}),
        **problem_report(skipped),
        "left_out": [frames[index].name for index in split.left_out],
        "histogram": {str(count): n for count, n in sorted(Counter(counts.tolist()).items())},
        "splits": {
            name: {"frames": len(rows), "mean": round(float(counts[rows].mean()), 6)}
            for name, rows in parts.items()
        },
        **_camera_report(cameras, split),
        "blind_interpolation": baseline_metrics(actual, guess),
        "best_constant": baseline_metrics(actual, np.full(len(actual), np.median(actual))),
    }


def split_summary(report: Mapping[str, Any]) -> str:
    """`300 frames -> 206 train, 30 val, 60 eval (4 left out between them)`."""
    parts = [f"{part['frames']} {name}" for name, part in report["splits"].items()]
    out = len(report["left_out"])
    between = f" ({out} left out between them)" if out else ""
    waiting = f"; {report['unlabelled']} without a label" if report.get("unlabelled") else ""
    return f"{report['frames']} frames -> {', '.join(parts)}{between}{waiting}"


def _camera_report(cameras: Sequence[str | None], split: FrameSplit) -> dict[str, Any]:
    """The frames of each camera in each split. Empty if there are not several cameras."""
    names = sorted({camera or "" for camera in cameras})
    if len(names) < 2:
        return {}
    frames = {part: Counter(cameras[i] or "" for i in rows) for part, rows in vars(split).items()}
    return {"cameras": {name: {part: n[name] for part, n in frames.items()} for name in names}}


def problem_report(problems: Sequence[DataProblem]) -> dict[str, Any]:
    """The part of prepared/report.json about rows and files that cannot be used."""
    return {"rejected_by_kind": count_kinds(problems), "rejected": problem_rows(problems)}


@contextmanager
def report_on_failure(prepared: Path) -> Iterator[None]:
    """On a DataError, replaces `prepared` by a folder that has only a report of all problems.

    Without the splits no later stage can take the folder for a complete one.
    """
    try:
        yield
    except DataError as error:
        with new_folder(prepared) as folder:
            write_json(folder / "report.json", problem_report(error.problems))
        error.report = prepared / "report.json"
        raise


def leak_warning(report: dict[str, Any], strategy: str) -> str | None:
    """A warning if eval's labels can be guessed from the labels before and after them.

    That is when interpolation halves the error of the best constant. Frames of several cameras
    have no neighbours in time: the strategy `camera` is never warned of.
    """
    blind, constant = report["blind_interpolation"]["mae"], report["best_constant"]["mae"]
    if strategy not in LEAK_REMEDIES or blind >= constant / 2:
        return None
    return (
        f"warning: split.strategy: is {strategy}, and the labels of eval can be guessed from the "
        "labels before and after them, without looking at an image. Such a guess errs by "
        f"{blind:.2f} people, the best constant by {constant:.2f}. The errors on this split do not "
        f"say how well a model counts. {LEAK_REMEDIES[strategy]}."
    )


def camera_warning(report: dict[str, Any], strategy: str) -> str | None:
    """A warning if a camera has too few frames for a part of its own in every split."""
    lacking = [
        f"{camera} has none in {' and '.join(part for part in PARTS if not frames[part])}"
        for camera, frames in report.get("cameras", {}).items()
        if not all(frames[part] for part in PARTS)
    ]
    if strategy != "temporal" or not lacking:
        return None
    more = f" ({len(lacking)} cameras in all)" if len(lacking) > 1 else ""
    return (
        "warning: split.strategy: is temporal, which splits the frames of each camera in time, but "
        f"{lacking[0]}{more}. Add frames, lower split.gap, or set split.strategy to camera."
    )


def data_md5(data: Path) -> str:
    """DVC's digest of `data`; without a .dvc file, a digest of the files' names and bytes."""
    tracked = data.with_name(f"{data.name}.dvc")
    if not tracked.exists():
        return sha256(data)[:32]
    return str(yaml.safe_load(tracked.read_text(encoding="utf-8"))["outs"][0]["md5"])


def _rows_of(
    frames: Sequence[Frame], positions: Sequence[int], asked: Iterable[Conversation]
) -> Iterator[Row]:
    for index, conversation in zip(positions, asked, strict=False):  # `repeat` never ends
        frame = frames[index]
        yield {
            "frame": frame.name,
            # The bytes and a bare name: an absolute path would make two clones differ.
            "image": {"path": frame.path.name, "bytes": _image_bytes(frame)},
            "count": frame.count,
            "camera": frame.camera,
            "points": None if frame.points is None else [{"x": x, "y": y} for x, y in frame.points],
            "messages": conversation.messages(frame.count),
        }


def _image_bytes(frame: Frame) -> bytes:
    content = frame.path.read_bytes()
    return stored_bytes(content) if frame.zone is None else painted_bytes(content, frame.zone)
