"""Measures how well a recipe counts on a data set, by blocked cross-validation in time.

    python -m benchmarks.cross_validate DATA [--blocks 8] [--set adapter.r=16] [--out FILE]

DATA is a folder like data/. Each block of consecutive frames is evaluated by an adapter that was
trained on the other blocks. A gap of frames on both sides of the block is left out. The errors of
all blocks are pooled and shown beside the baselines on the same frames. `--block 660:800` evaluates
this block only.
"""

import argparse
import json
import resource
import sys
import tempfile
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import DatasetDict

from benchmarks.settings import overridden
from llava_dvc.checks.preflight import RequestedModel, require_model
from llava_dvc.config import PARAMS, Config, load_config
from llava_dvc.conversation import parse_count
from llava_dvc.data.frames import read_frames
from llava_dvc.data.messages import read_conversations
from llava_dvc.data.prepare import build_dataset
from llava_dvc.data.split import FrameSplit
from llava_dvc.evaluation.baselines import ridge_features, train_mean, zero_shot
from llava_dvc.evaluation.predictions import prediction_table
from llava_dvc.metrics import Floats, baseline_metrics, coverage
from llava_dvc.model.backbone import backbone_encoder, load_backbone
from llava_dvc.training.count_trainer import CountTrainer, TrainingSpec, fit


@dataclass(frozen=True)
class Fold:
    """The labels and all answers of one block, in order of time."""

    count: Floats
    answers: dict[str, Floats]
    intervals: dict[str, Floats]
    """The ends of each frame's 80 % interval, `(frames, 2)`, by the name of their coverage."""
    minutes: float
    parameters: int
    peak_gib: float
    """GPU memory, or the process's memory without a GPU."""


def main() -> None:
    arguments = parse_arguments()
    cfg = overridden(load_config(arguments.params), arguments.set)
    frames = read_frames(arguments.data, cfg.data.exclude)
    conversations = read_conversations(arguments.data)
    blocks = arguments.block or even_blocks(len(frames), arguments.blocks)
    folds = []
    for block in blocks:
        split = split_around(block, len(frames), arguments.gap, cfg.split.val)
        rows = build_dataset(frames, conversations, split, cfg.seed)
        fold = run(cfg, rows, rivals=not arguments.alone)
        folds.append(fold)
        sys.stdout.write(json.dumps(figures([fold])) + "\n")
        sys.stdout.flush()
    pooled = {"set": arguments.set, "blocks": blocks, **figures(folds)}
    sys.stdout.write(json.dumps(pooled, indent=1) + "\n")
    if arguments.out:
        with arguments.out.open("a") as file:
            file.write(json.dumps(pooled) + "\n")


def run(cfg: Config, rows: DatasetDict, rivals: bool) -> Fold:
    """Evaluates the baselines before the adapter, because training changes the model."""
    train, val, held_out = rows["train"], rows["val"], rows["eval"]
    model, encoder = load_backbone(cfg.backbone), backbone_encoder(cfg.backbone, cfg.image)
    answers = {"train_mean": train_mean(train["count"], len(held_out))}
    if rivals:
        answers["zero_shot"] = zero_shot(model, encoder, train, held_out)
        answers["ridge_features"] = ridge_features(model, encoder, train, val, held_out)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as checkpoints:
        spec = TrainingSpec(train, val, cfg.adapter, cfg.train, cfg.seed, Path(checkpoints))
        trainer = CountTrainer(model, encoder, spec)
        require_model(trainer, RequestedModel(cfg.backbone, cfg.image, cfg.adapter))
        tuned = fit(trainer)
    minutes = (time.monotonic() - began) / 60
    tuned_model = tuned.model.eval()
    predicted = prediction_table(
        tuned_model, encoder, held_out, cfg.evaluate, tuned.temperature, tuned.smoothing
    )
    answers["adapter"] = predicted["predicted"].to_numpy(float)
    greedy = predicted["reply"].map(parse_count)  # None if the reply is not a number
    answers["adapter_greedy"] = greedy.fillna(predicted["predicted"]).to_numpy(float)
    intervals = {"coverage_80": predicted[["low", "high"]].to_numpy(float)}
    if tuned.smoothing:
        answers["adapter_smoothed"] = predicted["smoothed"].to_numpy(float)
        ends = predicted[["smoothed_low", "smoothed_high"]]
        intervals["coverage_80_smoothed"] = ends.to_numpy(float)
    return Fold(
        count=predicted["count"].to_numpy(float),
        answers=answers,
        intervals=intervals,
        minutes=minutes,
        parameters=sum(tensor.numel() for tensor in tuned.weights.values()),
        peak_gib=peak_bytes() / 2**30,
    )


def peak_bytes() -> int:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def split_around(block: tuple[int, int], frames: int, gap: int, val: float) -> FrameSplit:
    """Returns a split: `block` evaluates, the last frames outside block and gaps validate."""
    start, stop = block
    rest = [i for i in range(frames) if i < start - gap or i >= stop + gap]
    train = rest[: -round(val * frames)]
    taken = {*train, *rest[len(train) :], *range(start, stop)}
    left_out = [i for i in range(frames) if i not in taken]
    return FrameSplit(train, rest[len(train) :], list(range(start, stop)), left_out)


def even_blocks(frames: int, blocks: int) -> list[tuple[int, int]]:
    edges = np.linspace(0, frames, blocks + 1).round().astype(int).tolist()
    return list(pairwise(edges))


def figures(folds: list[Fold]) -> dict[str, Any]:
    """Returns the errors over the frames of all folds."""
    count = np.concatenate([fold.count for fold in folds])
    report: dict[str, Any] = {"frames": len(count)}
    for name in _in_all([fold.answers for fold in folds]):
        answers = np.concatenate([fold.answers[name] for fold in folds])
        report[name] = baseline_metrics(count, answers) | {
            "bias": round(float((answers - count).mean()), 2)
        }
    for name in _in_all([fold.intervals for fold in folds]):
        low, high = np.concatenate([fold.intervals[name] for fold in folds]).T
        report[name] = round(coverage(count, low, high), 3)
    report["minutes"] = [round(fold.minutes, 1) for fold in folds]
    report["parameters"] = folds[0].parameters
    report["peak_gib"] = round(max(fold.peak_gib for fold in folds), 2)
    return report


def _in_all(tables: list[dict[str, Floats]]) -> list[str]:
    """The names that all `tables` have: a fold without neighbouring frames has nothing smoothed."""
    return [name for name in tables[0] if all(name in table for table in tables)]


def parse_block(text: str) -> tuple[int, int]:
    start, _, stop = text.partition(":")
    return int(start), int(stop)


def add_block_options(parser: argparse.ArgumentParser) -> None:
    """Adds the data, the settings, and the blocks that are held out in turn."""
    parser.add_argument("data", type=Path)
    parser.add_argument("--params", type=Path, default=PARAMS)
    parser.add_argument("--set", action="append", default=[], metavar="section.key=value")
    parser.add_argument("--blocks", type=int, default=8)
    parser.add_argument("--block", type=parse_block, action="append", metavar="START:STOP")
    parser.add_argument("--gap", type=int, default=20)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_block_options(parser)
    parser.add_argument("--alone", action="store_true", help="leave out the slower baselines")
    parser.add_argument("--out", type=Path, help="a JSON Lines file to add the pooled figures to")
    return parser.parse_args()


if __name__ == "__main__":
    main()
