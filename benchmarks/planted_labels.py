"""Measures how many planted wrong labels `llava-dvc label --doubtful` lists first.

    python -m benchmarks.planted_labels DATA --adapter FOLDER [--wrong 10] [--by 5] [--first 30]

DATA is a folder like data/, whose labels are right. The adapter was trained with the right labels;
to measure one that has learnt the wrong ones, plant them before training.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from llava_dvc.labelling.doubtful_labels import doubtful_labels
from llava_dvc.labelling.guesses import guess_counts
from llava_dvc.labelling.label_pool import read_pool

TIMES = 300


def main() -> None:
    arguments = parse_arguments()
    pool = read_pool(arguments.data, ())
    names = list(pool.labels)
    guesses = guess_counts(pool, names, arguments.adapter)
    rng = np.random.default_rng(0)
    found = []
    for _ in range(TIMES):
        wrong = set(rng.choice(names, arguments.wrong, replace=False).tolist())
        labels = dict(pool.labels)
        for name in sorted(wrong):
            step = arguments.by * int(rng.choice([-1, 1]))
            count = labels[name].count
            labels[name] = replace(labels[name], count=count + (step if count >= -step else -step))
        doubts = doubtful_labels(replace(pool, labels=labels), guesses)[: arguments.first]
        found.append(len(wrong & {doubt.frame for doubt in doubts}))
    sys.stdout.write(
        f"{np.mean(found):.1f} of {arguments.wrong} wrong labels are among the first "
        f"{arguments.first} of {len(names)}, on average of {TIMES} times; all of them in "
        f"{np.mean(np.array(found) == arguments.wrong):.0%} of the times.\n"
    )


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--adapter", type=Path, default=Path("models/adapter"))
    parser.add_argument("--wrong", type=int, default=10)
    parser.add_argument("--by", type=int, default=5)
    parser.add_argument("--first", type=int, default=30)
    return parser.parse_args()


if __name__ == "__main__":
    main()
