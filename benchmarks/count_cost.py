"""What the whole distribution costs: P(0) to P(99) with the reply, against one greedy answer.

    python -m benchmarks.count_cost [ADAPTER] [--frames 64] [--rounds 5]

Both answer the same prepared batches of eight, in turn; the greedy answer is what transformers'
`generate` writes, at most two digits and the end.
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
from llava_dvc.data.images import read_rgb
from llava_dvc.model.adapter import load_adapter
from llava_dvc.model.chat_template import render_prompt
from llava_dvc.model.count_tree import CountTree
from llava_dvc.model.counting import loader, reply, score

BATCH = 8
TOKENS = 3  # two digits and the end


@torch.no_grad()
def main() -> None:
    arguments = _parse()
    model, encoder, recipe = load_adapter(arguments.adapter)
    content = [{"type": "image"}, {"type": "text", "text": recipe.question}]
    prompt = render_prompt(encoder.processor, [{"role": "user", "content": content}])
    frames = [read_rgb(frame.path) for frame in read_frames(Path("data"), ())[: arguments.frames]]
    batches = list(loader(encoder, frames, prompt, BATCH, model.device))
    tree = CountTree.build(encoder.processor, prompt, 99).to(model.device)

    def distribution(batch: dict[str, Any]) -> None:
        scores = score(model, batch, tree)
        tree.log_probabilities(scores.nodes)
        reply(model, batch["input_ids"].shape[1], scores, tree)

    def greedy(batch: dict[str, Any]) -> None:
        model.generate(**batch, max_new_tokens=TOKENS, do_sample=False)

    seconds: dict[str, list[float]] = {"greedy": [], "distribution": []}
    for _ in range(arguments.rounds + 1):
        for name, ask in (("greedy", greedy), ("distribution", distribution)):
            seconds[name].append(timed(ask, batches))
    one, other = (float(np.median(seconds[name][1:])) for name in ("greedy", "distribution"))
    speed = len(frames) / other
    sys.stdout.write(f"greedy {one:.2f} s, distribution {other:.2f} s: {other / one:.2f} times")
    sys.stdout.write(f"; {speed:.1f} frames/s without decoding\n")


def timed(ask: Callable[[dict[str, Any]], None], batches: list[dict[str, Any]]) -> float:
    began = time.perf_counter()
    for batch in batches:
        ask(batch)
    return time.perf_counter() - began


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("adapter", nargs="?", type=Path, default=Path("models/adapter"))
    parser.add_argument("--frames", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    return parser.parse_args()


if __name__ == "__main__":
    main()
