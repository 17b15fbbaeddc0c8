"""Changes one setting of params.yaml at a time and measures the error by blocked cross-validation.

    python -m benchmarks.ablation DATA --out FILE [--processes 4] [--set backbone.device=cuda]

DATA is a folder like data/. Each factor runs `benchmarks.cross_validate` over the same blocks, once
for each of --seeds, with --processes runs at the same time. FILE must be new. It gets one JSON line
per run, and the table is printed from it.
"""

import argparse
import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

HEADER = "| | seeds | MAE | RMSE | bias | greedy MAE | coverage | minutes | parameters | peak GiB |"

FACTORS: dict[str, tuple[str, ...]] = {
    "default": (),
    "loss soft": ("train.loss=soft",),
    "loss expected": ("train.loss=expected",),
    "no augmentation": ("train.augment=[]",),
    "flip": ("train.augment=[flip]",),
    "splice": ("train.augment=[splice]",),
    "flip, splice, light": ("train.augment=[flip,splice,light]",),
    "flip, splice, blur": ("train.augment=[flip,splice,blur]",),
    "flip, no points": ("train.augment=[flip]", "train.points=0.0"),
    "flip when counting": ("evaluate.flip=true",),
    "2 x 2 tiles": ("image.tiles=[2,2]",),
    "2 x 2 tiles, no points": ("image.tiles=[2,2]", "train.points=0.0"),
    "fp8": ("backbone.quantization=fp8",),
    "squash": ("image.geometry=squash",),
    "border dropped": ("image.drop_border=true",),
    "crop": ("image.geometry=crop",),
    "language only": ("adapter.vision=false", "adapter.projector=false"),
    "language, projector": ("adapter.vision=false",),
    "rslora": ("adapter.method=rslora",),
    "dora": ("adapter.method=dora",),
    "lora_plus": ("adapter.method=lora_plus",),
}


def main() -> None:
    arguments = parse_arguments()
    tasks = [(name, seed) for seed in arguments.seeds for name in arguments.factors]
    arguments.out.touch(exist_ok=False)  # the table averages all lines of a file
    with ThreadPoolExecutor(arguments.processes) as pool:
        list(pool.map(lambda task: run(*task, arguments), tasks))
    sys.stdout.write(table(map(json.loads, arguments.out.read_text().splitlines())))


def run(name: str, seed: int, arguments: argparse.Namespace) -> None:
    """Runs one factor with one seed in its own process. A failed run writes to stderr only."""
    command = [sys.executable, "-m", "benchmarks.cross_validate", str(arguments.data), "--alone"]
    command += [f"--block={block}" for block in arguments.block]
    settings = [*arguments.set, *FACTORS[name], f"seed={seed}"]
    command += [part for setting in settings for part in ("--set", setting)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.stderr.write(f"{name}, seed {seed}: {done.stderr[-500:]}\n")
        return
    pooled = json.loads(done.stdout[done.stdout.rindex("\n{\n") :])
    with arguments.out.open("a") as file:
        file.write(json.dumps({"name": name, "seed": seed, **pooled}) + "\n")


def table(rows: Iterable[dict[str, Any]]) -> str:
    """Returns one row per factor: means over seeds, and the standard deviation of the MAE."""
    by_name: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        by_name[row["name"]].append(row)
    lines = [HEADER, "|---" * HEADER.count("| ") + "|"]
    for name in [name for name in FACTORS if name in by_name]:
        runs = by_name[name]
        maes = [row["adapter"]["mae"] for row in runs]
        cells = [
            name,
            str(len(runs)),
            f"{np.mean(maes):.2f} ± {np.std(maes, ddof=1):.2f}",
            f"{np.mean([row['adapter']['rmse'] for row in runs]):.2f}",
            f"{np.mean([row['adapter']['bias'] for row in runs]):+.2f}",
            f"{np.mean([row['adapter_greedy']['mae'] for row in runs]):.2f}",
            f"{np.mean([row['coverage_80'] for row in runs]):.0%}",
            f"{np.mean([sum(row['minutes']) for row in runs]):.1f}",
            f"{runs[0]['parameters'] / 1e6:.2f} M",
            f"{max(row['peak_gib'] for row in runs):.2f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--factors", nargs="+", default=list(FACTORS), choices=FACTORS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[17, 18, 19])
    parser.add_argument("--block", action="append", default=[], metavar="START:STOP")
    parser.add_argument("--set", action="append", default=[], metavar="section.key=value")
    parser.add_argument("--processes", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    main()
