"""Checked frames to the splits of `prepared/`, and a report of what is in them."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from datasets import Dataset, DatasetDict

from llava_dvc.conversation import Conversation
from llava_dvc.data.data_errors import DataError, Problem, by_kind, listing
from llava_dvc.data.frames import Frame
from llava_dvc.data.split import Split, interpolate
from llava_dvc.dataset import FEATURES, Row
from llava_dvc.files import new_folder, sha256, write_json
from llava_dvc.metrics import summary

REMEDIES = {  # of a split that leaks
    "random": "set strategy to temporal",
    "blocked": "raise split.gap, or set strategy to temporal",
    "temporal": "raise split.gap",
}


def splits(
    frames: Sequence[Frame], conversations: Sequence[Conversation], split: Split, seed: int
) -> dict[str, Iterator[Row]]:
    """The rows of train, val and eval; a picture is read when its row is.

    The conversations are spread evenly over the training frames by `seed`; the others are asked the
    first one.
    """
    order = np.random.default_rng(seed).permutation(len(split.train)) % len(conversations)
    first = conversations[0]
    return {
        "train": _rows(frames, split.train, (conversations[index] for index in order)),
        "val": _rows(frames, split.val, repeat(first)),
        "eval": _rows(frames, split.eval, repeat(first)),
    }


def build(
    frames: Sequence[Frame], conversations: Sequence[Conversation], split: Split, seed: int
) -> DatasetDict:
    """The splits in memory, for a few frames."""
    parts = splits(frames, conversations, split, seed)
    return DatasetDict(
        {name: Dataset.from_list(list(rows), features=FEATURES) for name, rows in parts.items()}
    )


def numbers(frames: Sequence[Frame]) -> list[int]:
    """When each frame was taken: the number in seq_%06d.jpg, or its place when the names are
    others.
    """
    found = [re.fullmatch(r"seq_(\d{6})\.jpg", frame.name) for frame in frames]
    if all(found):
        return [int(match[1]) for match in found if match]
    return list(range(1, len(frames) + 1))


def report(
    frames: Sequence[Frame], split: Split, data: Path, skipped: Sequence[Problem] = ()
) -> dict[str, Any]:
    """What is in the data, what was skipped, how it was split, and how far the split leaks.

    `blind_interpolation` scores answers for eval that are interpolated in time from the other
    labels, without a look at any picture; `best_constant` the one number that is best for eval.
    """
    counts = np.array([frame.count for frame in frames])
    parts = {"train": split.train, "val": split.val, "eval": split.eval}
    return {
        "data_md5": data_md5(data),
        "frames": len(frames),
        **rejected(skipped),
        "left_out": [frames[index].name for index in split.left_out],
        "histogram": {str(count): n for count, n in sorted(Counter(counts.tolist()).items())},
        "splits": {
            name: {"frames": len(rows), "mean": round(float(counts[rows].mean()), 6)}
            for name, rows in parts.items()
        },
        "blind_interpolation": summary(
            counts[split.eval], interpolate(numbers(frames), counts, split)
        ),
        "best_constant": summary(
            counts[split.eval], np.full(len(split.eval), np.median(counts[split.eval]))
        ),
    }


def rejected(problems: Sequence[Problem]) -> dict[str, Any]:
    """Everything that was wrong, as a report has it."""
    return {"rejected_by_kind": by_kind(problems), "rejected": listing(problems)}


@contextmanager
def reported(prepared: Path) -> Iterator[None]:
    """When the data stop the stage, `prepared` holds a report of all that is wrong, and nothing
    else: no later stage can take it for a whole one.
    """
    try:
        yield
    except DataError as error:
        with new_folder(prepared) as folder:
            write_json(folder / "report.json", rejected(error.problems))
        error.report = prepared / "report.json"
        raise


def leak(found: dict[str, Any], strategy: str) -> str | None:
    """A line of warning when eval's labels can be had from their neighbours' in time: when that
    halves the error of the best constant. Several cameras have no neighbours in time.
    """
    blind, constant = found["blind_interpolation"]["mae"], found["best_constant"]["mae"]
    if strategy not in REMEDIES or blind >= constant / 2:
        return None
    return (
        f"warning: split.strategy: is {strategy}, and guessing the labels of eval from their "
        f"neighbours' in time, without a look at a picture, errs by {blind:.2f} people (the best "
        f"constant by {constant:.2f}): no error here says how well a model counts; "
        f"{REMEDIES[strategy]}"
    )


def data_md5(data: Path) -> str:
    """DVC's own digest of `data`; without a .dvc file, one of the files' names and bytes."""
    tracked = data.with_name(f"{data.name}.dvc")
    if not tracked.exists():
        return sha256(data)[:32]
    return str(yaml.safe_load(tracked.read_text(encoding="utf-8"))["outs"][0]["md5"])


def _rows(
    frames: Sequence[Frame], chosen: Sequence[int], asked: Iterable[Conversation]
) -> Iterator[Row]:
    for index, conversation in zip(chosen, asked, strict=False):  # the first is asked for ever
        frame = frames[index]
        yield {
            "frame": frame.name,
            # Bytes and a bare name: an absolute path would make two clones differ.
            "image": {"path": frame.path.name, "bytes": frame.path.read_bytes()},
            "count": frame.count,
            "camera": frame.camera,
            "messages": conversation.messages(frame.count),
        }
