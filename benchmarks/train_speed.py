"""Compares speed and memory of training LLaVA-1.5-7B to the stock TRL recipe on one GPU.

    python -m benchmarks.train_speed SKELETON [--recipes stock-checkpointing fast lean] [--out FILE]

SKELETON is a folder with the model's configuration, tokenizer and processor. The weights are random
and written once to --weights; the arithmetic is the same. Each recipe runs in its own process:
`--steps` optimizer steps on 640x480 JPEG frames, timed by CUDA events, without the first four.
The ceiling is the speed of a large matrix product in the same run.

    python -m benchmarks.train_speed SKELETON --recipes auto --caps 8 12 14 22 30 40

measures every recipe once for each cap in GiB on PyTorch's memory. A recipe that needs more fails.
"""

import argparse
import json
import sys
import tempfile
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, Features, List
from datasets import Image as ImageColumn
from peft import LoraConfig
from transformers import (
    AutoProcessor,
    BitsAndBytesConfig,
    LlavaForConditionalGeneration,
    TrainerCallback,
)
from trl import SFTConfig, SFTTrainer

from benchmarks.apart import limit_memory, run_apart, tell
from benchmarks.arithmetic import machine, matmul_rate, operations_per_step
from benchmarks.random_model import make_frames, make_weights, preset
from llava_dvc.config import Config
from llava_dvc.dataset import FEATURES
from llava_dvc.model.backbone import backbone_encoder, load_backbone
from llava_dvc.training.arguments import is_main_process
from llava_dvc.training.count_trainer import CountTrainer, TrainingSpec
from llava_dvc.training.recorded_step import RecordedStep

BATCH = 8
WARM_UP = 4

FAST = ("train.checkpointing=false", "train.compile=true", "backbone.unpacked=true")
FP8 = ("train.checkpointing=false", "train.compile=true", "backbone.quantization=fp8")
LEAN = ("train.compile=true", "train.optimizer=adamw_8bit")
AUTO = ("train.checkpointing=auto", *LEAN)

RECIPES: dict[str, list[str]] = {
    "stock-checkpointing": [],
    "stock": [],
    "preset": [],
    "lean": [*LEAN],
    "plain": ["train.checkpointing=false"],
    "unpacked": ["train.checkpointing=false", "backbone.unpacked=true"],
    "compiled": ["train.checkpointing=false", "train.compile=true"],
    "fast": [*FAST],
    "fast, no border": [*FAST, "image.drop_border=true"],
    "fast, 2 x 2 tiles": [*FAST, "image.tiles=[2, 2]"],
    "lean, no border": [*LEAN, "image.drop_border=true"],
    "auto": [*AUTO],
    "auto, unpacked": [*AUTO, "backbone.unpacked=true"],
    "auto, fp8": [*AUTO, "backbone.quantization=fp8"],
    "fp8": [*FP8],
    "fp8, no border": [*FP8, "image.drop_border=true"],
    "float16": ["backbone.dtype=float16"],
    "two GPUs, batch 8": [*FAST],
    "two GPUs, batch 16": [*FAST, "train.batch_size=16"],
    "two GPUs, FSDP": ["train.batch_size=16"],
}


@dataclass
class Measured:
    """The figures of one recipe."""

    recipe: str
    step_s: float
    samples_per_s: float
    tokens_per_s: float
    of_ceiling: float
    peak_gib: float
    cap_gib: float | None
    """The most memory that the process may take. None for the whole card."""
    recomputed_layers: int | None
    """Of the language model. None for the stock recipes."""
    recorded: bool
    """Whether the step is a CUDA graph at the end."""
    losses: list[float]


class StepTimer(TrainerCallback):
    """Records a CUDA event after each step, without synchronization until the end."""

    def __init__(self) -> None:
        self.events: list[torch.cuda.Event] = []
        self.losses: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        self.events.append(event)

    def on_log(self, *_: Any, logs: dict[str, float], **__: Any) -> None:
        if "loss" in logs:
            self.losses.append(float(logs["loss"]))

    def step_seconds(self) -> float:
        """Returns the median seconds of a step."""
        torch.cuda.synchronize()
        kept = self.events[WARM_UP:]
        times = [a.elapsed_time(b) / 1000 for a, b in pairwise(kept)]
        return float(np.median(times))


def main() -> None:
    arguments = parse_arguments()
    if arguments.recipe:
        measured = measure(arguments)
        if is_main_process("cuda"):
            tell(asdict(measured))
        return
    make_weights(arguments.skeleton, arguments.weights)
    ceiling = matmul_rate()
    rows = [
        run_recipe(name, cap, arguments, ceiling)
        for name in arguments.recipes
        for cap in arguments.caps or [None]
    ]
    report = {"machine": machine(), "matmul_tflops": round(ceiling / 1e12, 1), "rows": rows}
    sys.stdout.write(table(report))
    if arguments.out:
        arguments.out.write_text(json.dumps(report, indent=1) + "\n")


def run_recipe(
    name: str, cap: float | None, arguments: argparse.Namespace, ceiling: float
) -> dict[str, Any]:
    """Runs one recipe in a new process. A failure gives a row with the error."""
    kind = "fsdp" if "FSDP" in name else "ddp"
    config = f"--config_file=presets/accelerate/{kind}.yaml"
    launcher = ["-m", "accelerate.commands.launch", config] if "two" in name else []
    command = [*launcher, "-m", "benchmarks.train_speed", str(arguments.skeleton)]
    command += ["--recipe", name, "--weights", str(arguments.weights)]
    command += ["--steps", str(arguments.steps), "--ceiling", str(ceiling)]
    command += [] if cap is None else ["--caps", str(cap)]
    found, log = run_apart(command)
    title = name if cap is None else f"{name} in {cap:g} GiB"
    (arguments.logs / f"{title}.log").write_text(log)
    row = {"recipe": name, "cap_gib": cap} | found
    sys.stdout.write(f"{row}\n")
    sys.stdout.flush()
    return row


def measure(arguments: argparse.Namespace) -> Measured:
    """Measures `arguments.recipe` in this process, in at most the first of `arguments.caps`."""
    name, steps, timer = arguments.recipe, arguments.steps, StepTimer()
    cap = arguments.caps[0] if arguments.caps else None
    limit_memory(cap)
    cfg = preset(arguments.weights, RECIPES[name])
    batch = cfg.train.batch_size * cfg.train.accumulation
    rows = make_frames(batch * (steps + 1))
    trainer = (
        stock_trainer(name, arguments.weights, rows, steps)
        if "stock" in name
        else our_trainer(cfg, rows)
    )
    trainer.add_callback(timer)
    trainer.args.max_steps, trainer.args.eval_strategy, trainer.args.save_strategy = (
        steps,
        "no",
        "no",
    )
    torch.cuda.reset_peak_memory_stats()
    trainer.train()
    step = timer.step_seconds()
    tokens = batch * token_count(trainer, rows)
    rate = operations_per_step(trainer.model, tokens, batch) / step / trainer.args.world_size
    return Measured(
        recipe=name,
        step_s=round(step, 4),
        samples_per_s=round(batch / step, 2),
        tokens_per_s=round(tokens / step),
        of_ceiling=round(rate / arguments.ceiling, 3),
        peak_gib=round(torch.cuda.max_memory_allocated() / 2**30, 2),
        cap_gib=cap,
        recomputed_layers=getattr(trainer, "recomputed_layers", None),
        recorded=is_recorded(trainer),
        losses=timer.losses,
    )


def is_recorded(trainer: SFTTrainer) -> bool:
    """Whether the trainer's step is a CUDA graph."""
    step = getattr(trainer, "_step", None)
    return isinstance(step, RecordedStep) and bool(step.recording)


def our_trainer(cfg: Config, rows: Dataset) -> SFTTrainer:
    model, encoder = load_backbone(cfg.backbone), backbone_encoder(cfg.backbone, cfg.image)
    val, checkpoints = rows.select(range(2)), Path(tempfile.mkdtemp())
    spec = TrainingSpec(rows, val, cfg.adapter, cfg.train, cfg.seed, checkpoints)
    return CountTrainer(model, encoder, spec)


def stock_trainer(name: str, weights: Path, rows: Dataset, steps: int) -> SFTTrainer:
    """Follows TRL's documentation: all linear layers, its own collator and loss."""
    checkpointing = name == "stock-checkpointing"
    model = LlavaForConditionalGeneration.from_pretrained(
        weights,
        dtype=torch.bfloat16,
        device_map={"": 0},
        attn_implementation="sdpa",
        quantization_config=BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        ),
    )
    return SFTTrainer(
        model=model,
        train_dataset=trl_rows(rows),
        processing_class=AutoProcessor.from_pretrained(weights),
        peft_config=LoraConfig(
            r=64, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM"
        ),
        args=SFTConfig(
            output_dir=tempfile.mkdtemp(),
            per_device_train_batch_size=BATCH,
            max_steps=steps,
            learning_rate=1.4e-5,
            bf16=True,
            gradient_checkpointing=checkpointing,
            gradient_checkpointing_kwargs={"use_reentrant": False} if checkpointing else None,
            max_length=None,
            report_to="none",
            remove_unused_columns=False,
            dataset_kwargs={"skip_prepare_dataset": True},
        ),
    )


def trl_rows(rows: Dataset) -> Dataset:
    """Returns the same JPEG frames in a list column, as TRL needs them."""
    packed = rows.cast_column("image", ImageColumn(decode=False))["image"]
    features = Features({"images": List(ImageColumn()), "messages": FEATURES["messages"]})
    columns = {"images": [[image] for image in packed], "messages": rows["messages"][:]}
    return Dataset.from_dict(columns, features=features)


def token_count(trainer: SFTTrainer, rows: Dataset) -> int:
    """Returns the number of tokens that the trainer's collator gives a row."""
    row = dict(rows[0])
    if "image" not in trainer.train_dataset.column_names:
        row = {"messages": row["messages"], "images": [row["image"]]}
    return int(trainer.data_collator([row])["input_ids"].shape[1])


def table(report: dict[str, Any]) -> str:
    """Returns a Markdown table with speed relative to the stock recipe with checkpointing."""
    speeds = {row["recipe"]: row.get("samples_per_s", float("nan")) for row in report["rows"]}
    base = speeds.get("stock-checkpointing", float("nan"))
    lines = [
        f"matmul {report['matmul_tflops']} TFLOP/s, {report['machine']}",
        "| recipe | cap | samples/s | x stock | tokens/s | of ceiling | peak GiB | recomputed "
        "| recorded |",
        "|" + "---|" * 9,
    ]
    for row in report["rows"]:
        cells = [row["recipe"], f"{row['cap_gib'] or ''}", "failed", *[""] * 6]
        if "error" not in row:
            cells[2:] = (
                f"{row['samples_per_s']:.1f}",
                f"{row['samples_per_s'] / base:.2f}",
                f"{row['tokens_per_s']:,}",
                f"{row['of_ceiling']:.0%}",
                f"{row['peak_gib']:.1f}",
                str(row["recomputed_layers"]),
                "yes" if row["recorded"] else "no",
            )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("skeleton", type=Path)
    parser.add_argument("--weights", type=Path, default=Path("/tmp/llava-7b-random"))
    parser.add_argument("--recipes", nargs="+", default=list(RECIPES), choices=RECIPES)
    parser.add_argument("--recipe", choices=RECIPES, help="measure this recipe in this process")
    parser.add_argument("--caps", nargs="+", type=float, help="GiB of memory, one row each")
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--ceiling", type=float, default=float("nan"))
    parser.add_argument("--logs", type=Path, default=Path("/tmp"))
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
