"""Compares what `llava-dvc doctor` says of a training with what the training takes.

    python -m benchmarks.doctor_cost PREPARED [--params presets/llava-1.5-7b-tuned.yaml]
        [--set backbone.name=FOLDER] [--cap 22] [--out FILE]

PREPARED is the folder of the stage prepare. Three processes follow each other: the doctor, a
training that finds nothing compiled on disk, and the same training again. `--cap` is the most
memory in GiB that PyTorch may take on the GPU. `recorded` says whether the step was a CUDA
graph at the end. `benchmarks.random_adapter` writes a backbone of 7B with random weights.
"""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.apart import limit_memory, run_apart, tell
from benchmarks.settings import overridden
from benchmarks.train_speed import is_recorded
from llava_dvc.checks.doctor import all_checks
from llava_dvc.checks.training_cost import TO_WARM, StepClock
from llava_dvc.config import PARAMS, Config, load_config
from llava_dvc.dataset import load_split
from llava_dvc.model.backbone import backbone_encoder, load_backbone
from llava_dvc.tracking.system_metrics import machine_name, process_usage
from llava_dvc.training.count_trainer import CountTrainer, TrainingSpec, fit

PARTS = {"doctor": "doctor", "training": "training", "training again": "training"}
"""What runs, and whose compiled code it finds on disk."""
CACHES = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")
SAID = {"training time", "training memory"}
"""The doctor's checks that are compared."""


def main() -> None:
    arguments = parse_arguments()
    if arguments.part:
        tell(measure(arguments))
        return
    with tempfile.TemporaryDirectory() as caches:
        rows = [run_part(part, Path(caches) / cache) for part, cache in PARTS.items()]
    report = {"machine": machine_name(), "arguments": sys.argv[1:], "rows": rows}
    if arguments.out:
        arguments.out.write_text(json.dumps(report, indent=1) + "\n")


def run_part(part: str, cache: Path) -> dict[str, Any]:
    """Runs one part in a new process, with `cache` for compiled code. What it wrote follows on
    standard error: for one, why nothing was recorded.
    """
    places = {name: str(cache / name) for name in CACHES}
    command = ["-m", "benchmarks.doctor_cost", *sys.argv[1:], "--part", part]
    found, log = run_apart(command, os.environ | places)
    sys.stderr.write(log)
    row = {"part": part, **found}
    sys.stdout.write(f"{json.dumps(row)}\n")
    sys.stdout.flush()
    return row


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measures `arguments.part` in this process."""
    cfg = overridden(load_config(arguments.params), arguments.set)
    limit_memory(arguments.cap)
    if arguments.part == "doctor":
        checks = list(all_checks(cfg, arguments.prepared))
        faults = {c.name: c.fault for c in checks if c.fault}
        said = {c.name: c.found for c in checks if c.name in SAID}
        return said | faults | rounded(process_usage())
    return train(cfg, arguments.prepared)


def train(cfg: Config, prepared: Path) -> dict[str, Any]:
    """Trains as the stage does, without its logs and without saving the adapter."""
    rows, val = load_split(prepared, "train"), load_split(prepared, "val")
    model, encoder = load_backbone(cfg.backbone), backbone_encoder(cfg.backbone, cfg.image)
    clock = StepClock()
    with tempfile.TemporaryDirectory() as checkpoints:
        spec = TrainingSpec(rows, val, cfg.adapter, cfg.train, cfg.seed, Path(checkpoints), [clock])
        trainer = CountTrainer(model, encoder, spec)
        fit(trainer)
    step = median(clock.seconds[TO_WARM:])
    figures = {
        "steps": len(clock.seconds),
        "step_ms": 1000 * step,
        "samples_per_s": cfg.train.batch_size * cfg.train.accumulation / step,
        "recomputed_layers": trainer.recomputed_layers,
        "recorded": is_recorded(trainer),
    }
    return rounded(figures | process_usage())


def rounded(figures: dict[str, Any]) -> dict[str, Any]:
    return {k: round(v, 2) if isinstance(v, float) else v for k, v in figures.items()}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("prepared", type=Path)
    parser.add_argument("--params", type=Path, default=PARAMS)
    parser.add_argument("--set", action="append", default=[], metavar="section.key=value")
    parser.add_argument("--cap", type=float, metavar="GIB")
    parser.add_argument("--part", choices=PARTS, help="measure this one in this process")
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
