"""Measures how many labelled frames a camera needs: the error against the number of labels.

    python -m benchmarks.label_budget DATA [--labels 10 25 50 100] [--seeds 17 18 19] \
        [--block 240:300] [--out FILE] [--picture FILE]

DATA is a folder like data/. As in cross_validate, each block of frames is evaluated by an adapter
that was trained on others: on so many labelled frames, evenly spaced. Every tenth of them
validates. Ridge on the frozen tower's features has the same labels. The picture shows all lines of
FILE, also of earlier calls.
"""

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from benchmarks.cross_validate import (
    add_block_options,
    even_blocks,
    figures,
    run,
    split_around,
)
from benchmarks.settings import overridden
from llava_dvc.config import Config, load_config
from llava_dvc.conversation import Conversation
from llava_dvc.data.frames import Frame, read_frames
from llava_dvc.data.messages import read_conversations
from llava_dvc.data.prepare import build_dataset
from llava_dvc.data.split import FrameSplit

VALIDATING = 10  # every tenth label validates
SHOWN = {
    "adapter": ("adapter", "o-"),
    "adapter_smoothed": ("adapter, smoothed in time", "s--"),
    "ridge_features": ("ridge on frozen features", "^:"),
}


def main() -> None:
    arguments = parse_arguments()
    cfg = overridden(load_config(arguments.params), arguments.set)
    frames = read_frames(arguments.data, cfg.data.exclude)
    conversations = read_conversations(arguments.data)
    blocks = arguments.block or even_blocks(len(frames), arguments.blocks)
    around = [split_around(block, len(frames), arguments.gap, cfg.split.val) for block in blocks]
    for seed, labels in product(arguments.seeds, arguments.labels):
        splits = [fewer_labels(split, labels) for split in around]
        used = len(splits[0].train) + len(splits[0].val)
        report = {"labels": used, "seed": seed, "blocks": blocks}
        report |= measured(overridden(cfg, [f"seed={seed}"]), frames, conversations, splits)
        sys.stdout.write(json.dumps(report) + "\n")
        sys.stdout.flush()
        with arguments.out.open("a") as file:
            file.write(json.dumps(report) + "\n")
    lines = arguments.out.read_text().splitlines()
    draw([json.loads(line) for line in lines], arguments.picture)


def measured(
    cfg: Config,
    frames: Sequence[Frame],
    conversations: Sequence[Conversation],
    splits: Sequence[FrameSplit],
) -> dict[str, Any]:
    """Returns the pooled errors of adapters that are trained and evaluated on each split."""
    return figures(
        [
            run(cfg, build_dataset(frames, conversations, split, cfg.seed), rivals=True)
            for split in splits
        ]
    )


def fewer_labels(split: FrameSplit, labels: int) -> FrameSplit:
    """Returns the split with `labels` of its training and validation frames, evenly spaced."""
    rest = sorted([*split.train, *split.val])
    places = np.linspace(0, len(rest) - 1, min(labels, len(rest))).round().astype(int)
    kept = [rest[place] for place in places]
    val = kept[VALIDATING // 2 :: VALIDATING]
    train = [frame for frame in kept if frame not in val]
    left_out = sorted({*split.left_out, *rest} - {*kept})
    return replace(split, train=train, val=val, left_out=left_out)


def draw(reports: list[dict[str, Any]], path: Path) -> None:
    """Draws the mean error over the seeds, with the smallest and the largest, against labels."""
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    for name, (text, style) in SHOWN.items():
        errors = defaultdict(list)
        for report in reports:
            if name in report:
                errors[report["labels"]].append(report[name]["mae"])
        if not errors:  # nothing smoothed without neighbouring frames
            continue
        labels = sorted(errors)
        middle = np.array([np.mean(errors[n]) for n in labels])
        ends = [[min(errors[n]) for n in labels], [max(errors[n]) for n in labels]]
        spread = np.abs(np.array(ends) - middle)
        axes.errorbar(labels, middle, yerr=spread, fmt=style, capsize=3, label=text)
    axes.set_xscale("log")
    ticks = sorted({report["labels"] for report in reports})
    axes.set_xticks(ticks, [str(n) for n in ticks])
    axes.minorticks_off()
    axes.set_xlabel("labelled frames")
    axes.set_ylabel("mean absolute error, people")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=110)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_block_options(parser)
    parser.add_argument("--labels", type=int, nargs="+", default=[10, 25, 50, 100, 200, 400])
    parser.add_argument("--seeds", type=int, nargs="+", default=[17, 18, 19])
    parser.add_argument("--out", type=Path, default=Path("label_budget.jsonl"))
    parser.add_argument("--picture", type=Path, default=Path("label_budget.png"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
