"""Compares the time of the whole distribution, P(0) to P(99) with the reply, to a greedy answer.

    python -m benchmarks.count_cost [ADAPTER] [--frames 64] [--rounds 5]

Both use the same prepared batches of eight and take turns. The greedy answer comes from
`generate` of transformers: at most two digits and EOS.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from llava_dvc.data.frames import read_frames
from llava_dvc.data.images import read_image
from llava_dvc.model.adapter import load_adapter
from llava_dvc.model.counting import CountPredictor, reply, score

BATCH = 8
NEW_TOKENS = 3  # two digits and EOS


@torch.no_grad()
def main() -> None:
    arguments = parse_arguments()
    model, encoder, recipe = load_adapter(arguments.adapter)
    predictor = CountPredictor(model, encoder, recipe.question, 99)
    tree = predictor.tree
    frames = [read_image(frame.path) for frame in read_frames(Path("data"), ())[: arguments.frames]]
    batches = list(predictor.batches(frames, BATCH))

    def distribution(batch: dict[str, Any]) -> None:
        scores = score(model, batch, tree)
        tree.log_probabilities(scores.nodes)
        reply(model, batch["input_ids"].shape[1], scores, tree)

    def greedy(batch: dict[str, Any]) -> None:
        model.generate(**batch, max_new_tokens=NEW_TOKENS, do_sample=False)

    seconds: dict[str, list[float]] = {"greedy": [], "distribution": []}
    for _ in range(arguments.rounds + 1):
        for name, answer in (("greedy", greedy), ("distribution", distribution)):
            seconds[name].append(time_of(answer, batches))
    fast, whole = (float(np.median(seconds[name][1:])) for name in ("greedy", "distribution"))
    speed = len(frames) / whole
    sys.stdout.write(f"greedy {fast:.2f} s, distribution {whole:.2f} s: {whole / fast:.2f} times")
    sys.stdout.write(f"; {speed:.1f} frames/s without decoding\n")


def time_of(answer: Callable[[dict[str, Any]], None], batches: list[dict[str, Any]]) -> float:
    """Returns the seconds for all batches."""
    began = time.perf_counter()
    for batch in batches:
        answer(batch)
    return time.perf_counter() - began


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("adapter", nargs="?", type=Path, default=Path("models/adapter"))
    parser.add_argument("--frames", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    return parser.parse_args()


if __name__ == "__main__":
    main()
