"""Measures a preset on the Mall data set by its own protocol: tuned on 1-800, tested on 801-2000.

    python -m benchmarks.mall FOLDER --preset llava-1.5-7b-tuned --seeds 17 18 19 [--price 2.50]

FOLDER is the data set (or its zip) as `llava-dvc import` takes it. The script says what it will
cost before it begins. It writes the answers, a table and a picture to .cache/mall/PRESET, outside
git. Called again, it goes on: what is done is not done again, and an unfinished training begins
anew. With --block 0:100 (once or more), frames 1-100 are tested, and the rest of the frames 1-800,
less a gap, tunes. This shows the script at work without the frames 801-2000.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from datasets import DatasetDict
from matplotlib.figure import Figure

from benchmarks.cross_validate import Fold, figures, parse_block, run, split_around
from benchmarks.settings import overridden
from llava_dvc.checks.presets import PRESETS
from llava_dvc.checks.training_cost import (
    STEPS,
    TO_WARM,
    reckoned_seconds,
    rows_to_time,
    time_steps,
    training_length,
)
from llava_dvc.config import Config, load_config
from llava_dvc.data.frames import read_frames
from llava_dvc.data.imports.mall import import_mall
from llava_dvc.data.messages import read_conversations
from llava_dvc.data.prepare import build_dataset
from llava_dvc.data.split import FrameSplit
from llava_dvc.errors import UserError
from llava_dvc.exit_line import exit_with_one_line
from llava_dvc.files import new_file, write_json
from llava_dvc.model.backbone import backbone_encoder, load_backbone
from llava_dvc.training.count_trainer import CountTrainer, TrainingSpec

TUNED, FRAMES = 800, 2000  # the protocol of Chen et al., BMVC 2012
GAP = 20  # frames left out on both sides of a block
ROWS = {
    "train_mean": "train mean",
    "zero_shot": "zero shot",
    "ridge_features": "ridge on the frozen tower's features",
    "adapter": "adapter",
    "adapter_smoothed": "adapter, smoothed over time",
}
COVERAGE = {"adapter": "coverage_80", "adapter_smoothed": "coverage_80_smoothed"}


@dataclass(frozen=True)
class Task:
    """One training and its test."""

    seed: int
    block: tuple[int, int]
    """Frames that are tested, counted from 0."""
    rivals: bool
    """Whether zero shot and ridge are measured too: they are the same for every seed."""


def main() -> None:
    arguments = parse_arguments()
    with exit_with_one_line("the same command: it goes on"):
        measure(arguments)


def measure(arguments: argparse.Namespace) -> None:
    """Does what is not done yet, then writes table.md and errors.png."""
    cfg = preset_config(arguments.preset, arguments.set)
    data, out = imported(arguments.folder, arguments.out), arguments.out / arguments.preset
    blocks = arguments.block or [(TUNED, FRAMES)]
    frames = read_frames(data, ())
    require_frames(len(frames), blocks)
    conversations = read_conversations(data)

    def rows(task: Task) -> DatasetDict:
        split = mall_split(task.block, cfg.split.val)
        return build_dataset(frames, conversations, split, task.seed)

    files = {task: out / file_name(cfg, task) for task in tasks(arguments.seeds, blocks)}
    missing = [task for task, file in files.items() if not file.exists()]
    sys.stdout.write(f"{len(files) - len(missing)} of {len(files)} trainings are done.\n")
    if missing:
        sys.stdout.write(estimate(cfg, rows(missing[0]), len(missing), arguments.price))
    for task in missing:
        sys.stdout.write(f"seed {task.seed}, frames {task.block[0] + 1}-{task.block[1]} ...\n")
        sys.stdout.flush()
        fold = run(overridden(cfg, [f"seed={task.seed}"]), rows(task), rivals=task.rivals)
        write_json(files[task], written(fold))
        sys.stdout.write(json.dumps(figures([fold])) + "\n")
    folds = {task: read_fold(file) for task, file in files.items()}
    report(arguments.preset, folds, out)


def preset_config(preset: str, settings: list[str]) -> Config:
    path = PRESETS / f"{preset}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in PRESETS.glob("*.yaml")))
        raise UserError(f"--preset: is {preset!r}, which is not in {PRESETS}/. Take one of {known}")
    return overridden(load_config(path), settings)


def imported(source: Path, out: Path) -> Path:
    """The data set in the form of data/, copied once."""
    if not source.exists():
        raise UserError(f"{source}: not found. Give the folder or the zip of the Mall data set.")
    data = out / f"data-{hashlib.sha256(str(source.resolve()).encode()).hexdigest()[:8]}"
    if not data.exists():
        out.mkdir(parents=True, exist_ok=True)
        import_mall(source, data)
    return data


def require_frames(frames: int, blocks: Sequence[tuple[int, int]]) -> None:
    if blocks == [(TUNED, FRAMES)]:
        if frames != FRAMES:
            raise UserError(
                f"FOLDER: has {frames} frames, and Mall's protocol needs {FRAMES}. Give all of "
                "them. Or test blocks of the first 800 with --block 0:100."
            )
        return
    if frames < TUNED:
        raise UserError(f"FOLDER: has {frames} frames, and --block needs the first {TUNED}.")
    for start, stop in blocks:
        if not 0 <= start < stop <= TUNED:
            raise UserError(
                f"--block: is {start}:{stop}, but blocks lie in the frames 0:{TUNED}. Name one "
                "like 0:100."
            )


def mall_split(block: tuple[int, int], val: float) -> FrameSplit:
    """Tests `block`. The last of the other frames up to 800 validate, the rest of them train."""
    is_protocol = block == (TUNED, FRAMES)
    frames, gap = (FRAMES, 0) if is_protocol else (TUNED, GAP)
    return split_around(block, frames, gap, val)


def tasks(seeds: Sequence[int], blocks: Sequence[tuple[int, int]]) -> list[Task]:
    return [Task(seed, block, rivals=seed == seeds[0]) for seed, block in product(seeds, blocks)]


def file_name(cfg: Config, task: Task) -> str:
    """Names the settings too: after a change of them nothing old is taken."""
    settings = cfg.model_dump(mode="json", exclude={"publish", "seed"})
    key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
    start, stop = task.block
    rivals = "-rivals" if task.rivals else ""
    return f"{key}-seed{task.seed}-{start}-{stop}{rivals}.json"


def estimate(cfg: Config, rows: DatasetDict, trainings: int, price: float | None) -> str:
    """Times a few steps. The zero shot is counted as a second test."""
    encoder = backbone_encoder(cfg.backbone, cfg.image)
    few = rows_to_time(cfg, rows["train"])
    with TemporaryDirectory() as folder:
        spec = TrainingSpec(few, rows["val"], cfg.adapter, cfg.train, cfg.seed, Path(folder))
        timed = time_steps(CountTrainer(load_backbone(cfg.backbone), encoder, spec))
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    length = training_length(cfg, rows["train"], rows["val"], encoder)
    training = reckoned_seconds(length, timed)
    hours = trainings * (training + 2 * len(rows["eval"]) * timed.validation) / 3600
    step = sum(timed.steps[TO_WARM:]) / (STEPS - TO_WARM)
    cost = "" if price is None else f", {hours * price:.2f} at {price:.2f} an hour"
    return (
        f"To do: {trainings} trainings of {length.steps} steps of {step:.2f} s, each with a test "
        f"of {len(rows['eval'])} frames: about {hours:.1f} hours{cost}.\n"
    )


def written(fold: Fold) -> dict[str, Any]:
    values = asdict(fold)
    for name in ("answers", "intervals"):
        values[name] = {key: table.tolist() for key, table in values[name].items()}
    return values | {"count": fold.count.tolist()}


def read_fold(path: Path) -> Fold:
    values = json.loads(path.read_text())
    for name in ("answers", "intervals"):
        values[name] = {key: np.array(table) for key, table in values[name].items()}
    return Fold(**values | {"count": np.array(values["count"])})


def report(preset: str, folds: dict[Task, Fold], out: Path) -> None:
    """Prints and writes the table; draws the picture."""
    seeds = sorted({task.seed for task in folds}, key=[task.seed for task in folds].index)
    by_seed = [figures([f for task, f in folds.items() if task.seed == seed]) for seed in seeds]
    text = table_text(preset, seeds, by_seed)
    with new_file(out / "table.md") as file:
        file.write_text(text, encoding="utf-8")
    draw(preset, by_seed, out / "errors.png")
    sys.stdout.write(f"\n{text}\n{out}/table.md\n{out}/errors.png\n")


def table_text(preset: str, seeds: Sequence[int], by_seed: Sequence[dict[str, Any]]) -> str:
    """Markdown: the mean over the seeds, with the smallest and the largest if they differ."""
    names = ", ".join(map(str, seeds))
    lines = [
        f"| `{preset}`, {by_seed[0]['frames']} frames, seeds {names} | MAE | RMSE | in the 80 % "
        "interval |",
        "|---|---|---|---|",
    ]
    for name, label in ROWS.items():
        found = [report for report in by_seed if name in report]
        if not found:
            continue
        key = COVERAGE.get(name)
        inside = f"{np.mean([report[key] for report in found]):.0%}" if key else ""
        errors = [spread([report[name][figure] for report in found]) for figure in ("mae", "rmse")]
        lines.append(f"| {label} | {errors[0]} | {errors[1]} | {inside} |")
    minutes = [minute for report in by_seed for minute in report["minutes"]]
    gib = max(report["peak_gib"] for report in by_seed)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    lines += ["", f"A training took {np.median(minutes):.1f} minutes and {gib:.1f} GiB ({device})."]
    return "\n".join(lines) + "\n"


def spread(values: Sequence[float]) -> str:
    """Example: 2.12 (2.05-2.20)."""
    ends = f" ({min(values):.2f}-{max(values):.2f})" if min(values) < max(values) else ""
    return f"{np.mean(values):.2f}{ends}"


def draw(preset: str, by_seed: Sequence[dict[str, Any]], path: Path) -> None:
    """A bar for the mean error of each row, a dot for each seed. It shows no frame or label."""
    names = [name for name in ROWS if any(name in report for report in by_seed)]
    errors = [[report[name]["mae"] for report in by_seed if name in report] for name in names]
    figure = Figure(figsize=(7, 0.5 * len(names) + 1.4), layout="constrained")
    axes = figure.subplots()
    places = range(len(names))
    axes.barh(places, [np.mean(values) for values in errors], color="#9fc5d1")
    for place, values in zip(places, errors, strict=True):
        axes.plot(values, [place] * len(values), "o", color="#1f6f8b")
    axes.set_yticks(places, [ROWS[name] for name in names])
    axes.invert_yaxis()
    axes.set_xlabel("mean absolute error, people")
    axes.set_title(f"{preset}: {by_seed[0]['frames']} frames of Mall")
    axes.grid(axis="x", alpha=0.3)
    figure.savefig(path, dpi=110)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--preset", default="llava-1.5-7b-tuned")
    parser.add_argument("--seeds", type=int, nargs="+", default=[17, 18, 19])
    parser.add_argument("--block", type=parse_block, action="append", metavar="START:STOP")
    parser.add_argument("--set", action="append", default=[], metavar="section.key=value")
    parser.add_argument("--price", type=float, help="of an hour of this machine")
    parser.add_argument("--out", type=Path, default=Path(".cache/mall"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
