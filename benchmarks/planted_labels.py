"""Measures how many planted wrong labels `llava-dvc label --doubtful` lists first.

    python -m benchmarks.planted_labels DATA --adapter FOLDER [--wrong 10] [--by 5] [--first 30]
    python -m benchmarks.planted_labels DATA --ridge FILE.npy [--frames 300:600]

DATA is a folder like data/, whose labels are right. The adapter was trained with the right labels.
With --ridge, ridge on the frozen tower's features takes its place, which takes seconds: fitted to
the first 70 % of the frames with the right labels, and then each time anew with the wrong ones.
FILE keeps the features between two calls.
"""

import argparse
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.cross_validate import parse_block
from benchmarks.label_choice import fit, read_features
from llava_dvc.data.labels import Label
from llava_dvc.labelling.doubtful_labels import doubtful_labels
from llava_dvc.labelling.guesses import guess_counts
from llava_dvc.labelling.label_pool import LabelPool, read_pool
from llava_dvc.labelling.studio_tasks import Guess

TIMES, TRAINED = 300, 0.7
Guesser = Callable[[Mapping[str, Label]], dict[str, Guess]]
"""What a model that has learnt from these labels says of every frame."""


def main() -> None:
    arguments = parse_arguments()
    pool = read_pool(arguments.data, ())
    names = list(pool.labels)[slice(*arguments.frames)]
    pool = replace(pool, labels={name: pool.labels[name] for name in names})
    if arguments.ridge is None:
        guesses = guess_counts(pool, names, arguments.adapter)
        report("the adapter", pool, lambda _: guesses, arguments)
        return
    guesser = ridge_guesser(pool, arguments.ridge)
    right = guesser(pool.labels)
    report("ridge that learnt the right labels", pool, lambda _: right, arguments)
    report("ridge that learnt the wrong labels too", pool, guesser, arguments)


def ridge_guesser(pool: LabelPool, kept: Path) -> Guesser:
    every = read_features([pool.path(name) for name in pool.names], kept)
    names = list(pool.labels)
    features = every[[pool.names.index(name) for name in names]]
    learnt = int(TRAINED * len(names))

    def guess(labels: Mapping[str, Label]) -> dict[str, Guess]:
        counts = np.array([labels[name].count for name in names])
        found = fit(features[:learnt], counts[:learnt]).predict(features).round().astype(int)
        return {
            name: Guess(n, n, n, 0.0, "") for name, n in zip(names, found.tolist(), strict=True)
        }

    return guess


def report(model: str, pool: LabelPool, guesser: Guesser, arguments: argparse.Namespace) -> None:
    rng = np.random.default_rng(0)
    found = []
    for _ in range(TIMES):
        labels, wrong = plant(pool, rng, arguments)
        doubts = doubtful_labels(replace(pool, labels=labels), guesser(labels))
        found.append(len(wrong & {doubt.frame for doubt in doubts[: arguments.first]}))
    sys.stdout.write(
        f"{model}: {np.mean(found):.1f} of {arguments.wrong} wrong labels are among the first "
        f"{arguments.first} of {len(pool.labels)}, on average of {TIMES} times; all of them in "
        f"{np.mean(np.array(found) == arguments.wrong):.0%} of the times.\n"
    )


def plant(
    pool: LabelPool, rng: np.random.Generator, arguments: argparse.Namespace
) -> tuple[dict[str, Label], set[str]]:
    """The labels with some that are too high or too low, and the names of these frames."""
    wrong = set(rng.choice(list(pool.labels), arguments.wrong, replace=False).tolist())
    labels = dict(pool.labels)
    for name in sorted(wrong):
        step = arguments.by * int(rng.choice([-1, 1]))
        count = labels[name].count
        labels[name] = replace(labels[name], count=count + (step if count >= -step else -step))
    return labels, wrong


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--adapter", type=Path, default=Path("models/adapter"))
    parser.add_argument("--ridge", type=Path)
    parser.add_argument("--frames", type=parse_block, default=(0, None))
    parser.add_argument("--wrong", type=int, default=10)
    parser.add_argument("--by", type=int, default=5)
    parser.add_argument("--first", type=int, default=30)
    return parser.parse_args()


if __name__ == "__main__":
    main()
