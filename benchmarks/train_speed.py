"""Compares speed and memory of training LLaVA-1.5-7B to the stock TRL recipe on one GPU.

    python -m benchmarks.train_speed SKELETON [--recipes stock-checkpointing fast lean] [--out FILE]

SKELETON is a folder with the model's configuration, tokenizer and processor. The weights are random
and written once to --weights; the arithmetic is the same. Each recipe runs in its own process:
`--steps` optimizer steps on 640x480 JPEG frames, timed by CUDA events, without the first four.
The ceiling is the speed of a large matrix product in the same run.
"""

import argparse
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, Features, List
from datasets import Image as ImageColumn
from peft import LoraConfig
from PIL import Image
from transformers import (
    AutoProcessor,
    BitsAndBytesConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    TrainerCallback,
)
from trl import SFTConfig, SFTTrainer

from benchmarks.settings import overridden
from llava_dvc.config import Config, load_config
from llava_dvc.conversation import PLACEHOLDER, Conversation
from llava_dvc.dataset import FEATURES
from llava_dvc.model.backbone import backbone_encoder, load_backbone
from llava_dvc.training.arguments import is_main_process
from llava_dvc.training.count_trainer import CountTrainer, TrainingSpec

BATCH = 8
WARM_UP = 4
CONVERSATION = Conversation(
    "How many people are in this image? Answer with a single number.", PLACEHOLDER
)

FAST = ("train.checkpointing=false", "train.compile=true", "backbone.unpacked=true")

RECIPES: dict[str, list[str]] = {
    "stock-checkpointing": [],
    "stock": [],
    "preset": [],
    "lean": ["train.compile=true", "train.optimizer=adamw_8bit"],
    "plain": ["train.checkpointing=false"],
    "unpacked": ["train.checkpointing=false", "backbone.unpacked=true"],
    "compiled": ["train.checkpointing=false", "train.compile=true"],
    "fast": [*FAST],
    "fast, no border": [*FAST, "image.drop_border=true"],
    "lean, no border": [
        "train.compile=true",
        "train.optimizer=adamw_8bit",
        "image.drop_border=true",
    ],
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
        measured = measure(arguments.recipe, arguments.weights, arguments.steps, arguments.ceiling)
        if is_main_process("cuda"):
            sys.stdout.write(f"RESULT {json.dumps(asdict(measured))}\n")
        return
    make_weights(arguments.skeleton, arguments.weights)
    ceiling = matmul_rate()
    rows = [run_apart(name, arguments, ceiling) for name in arguments.recipes]
    report = {"machine": machine(), "matmul_tflops": round(ceiling / 1e12, 1), "rows": rows}
    sys.stdout.write(table(report))
    if arguments.out:
        arguments.out.write_text(json.dumps(report, indent=1) + "\n")


def run_apart(name: str, arguments: argparse.Namespace, ceiling: float) -> dict[str, Any]:
    """Runs one recipe in a new process. A failure gives a row with the error."""
    kind = "fsdp" if "FSDP" in name else "ddp"
    config = f"--config_file=presets/accelerate/{kind}.yaml"
    launcher = ["-m", "accelerate.commands.launch", config] if "two" in name else []
    command = [sys.executable, *launcher, "-m", "benchmarks.train_speed", str(arguments.skeleton)]
    command += ["--recipe", name, "--weights", str(arguments.weights)]
    command += ["--steps", str(arguments.steps), "--ceiling", str(ceiling)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    (arguments.logs / f"{name}.log").write_text(done.stdout + done.stderr)
    results = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    row = json.loads(results[0][7:]) if results else {"recipe": name, "error": done.stderr[-400:]}
    sys.stdout.write(f"{row}\n")
    sys.stdout.flush()
    return dict(row)


def measure(name: str, weights: Path, steps: int, ceiling: float) -> Measured:
    timer = StepTimer()
    cfg = preset(weights, RECIPES[name])
    batch = cfg.train.batch_size * cfg.train.accumulation
    rows = make_frames(batch * (steps + 1))
    trainer = (
        stock_trainer(name, weights, rows, steps) if "stock" in name else our_trainer(cfg, rows)
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
        of_ceiling=round(rate / ceiling, 3),
        peak_gib=round(torch.cuda.max_memory_allocated() / 2**30, 2),
        losses=timer.losses,
    )


def our_trainer(cfg: Config, rows: Dataset) -> SFTTrainer:
    model, encoder = load_backbone(cfg.backbone), backbone_encoder(cfg.backbone, cfg.image)
    val, checkpoints = rows.select(range(2)), Path(tempfile.mkdtemp())
    spec = TrainingSpec(rows, val, cfg.adapter, cfg.train, cfg.seed, checkpoints)
    return CountTrainer(model, encoder, spec)


def preset(weights: Path, settings: list[str]) -> Config:
    """Returns the 7B preset with random weights and the given settings."""
    cfg = load_config(Path("presets/llava-1.5-7b.yaml"))
    return overridden(cfg, [f"backbone.name={weights}", "backbone.revision=null", *settings])


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


def make_frames(number: int) -> Dataset:
    """Returns rows of JPEG frames of smooth noise with two-digit labels."""
    rng = np.random.default_rng(0)
    images = [_jpeg(rng) for _ in range(32)]
    conversations = [CONVERSATION.messages(n) for n in range(13, 51)]
    columns = {
        "frame": [f"{n}.jpg" for n in range(number)],
        "image": [{"path": None, "bytes": images[n % 32]} for n in range(number)],
        "count": [13 + n % 38 for n in range(number)],
        "camera": [None] * number,
        "points": [None] * number,
        "messages": [conversations[n % 38] for n in range(number)],
    }
    return Dataset.from_dict(columns, features=FEATURES)


def _jpeg(rng: np.random.Generator) -> bytes:
    coarse = Image.fromarray(rng.integers(0, 255, (60, 80, 3), dtype=np.uint8))
    file = io.BytesIO()
    coarse.resize((640, 480), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
    return file.getvalue()


def token_count(trainer: SFTTrainer, rows: Dataset) -> int:
    """Returns the number of tokens that the trainer's collator gives a row."""
    row = dict(rows[0])
    if "image" not in trainer.train_dataset.column_names:
        row = {"messages": row["messages"], "images": [row["image"]]}
    return int(trainer.data_collator([row])["input_ids"].shape[1])


def operations_per_step(model: Any, tokens: int, frames: int) -> float:
    """Returns the floating-point operations of a plain step, without those of attention.

    Frozen weights need the forward pass and the gradient of their inputs. Adapters also need the
    gradient of their weights. The tower needs the forward pass only.
    """
    language, tower = linear_weights(model.config)
    adapter = sum(
        p.numel() for n, p in model.named_parameters() if "language_model" in n and p.requires_grad
    )
    return float(
        (4 * language + 6 * adapter) * tokens + 2 * tower * frames * positions(model.config)
    )


def linear_weights(config: LlavaConfig) -> tuple[int, int]:
    """Returns the linear weights of the language model and of the tower."""
    text, vision = config.text_config, config.vision_config
    layer = 4 * text.hidden_size**2 + 3 * text.hidden_size * text.intermediate_size
    block = 4 * vision.hidden_size**2 + 2 * vision.hidden_size * vision.intermediate_size
    return layer * text.num_hidden_layers, block * vision.num_hidden_layers


def positions(config: LlavaConfig) -> int:
    """Returns the tower's positions per frame: its patches and the class token."""
    return int((config.vision_config.image_size // config.vision_config.patch_size) ** 2 + 1)


def matmul_rate(side: int = 8192) -> float:
    """Returns the operations per second of a bf16 product of random matrices."""
    a, b = (torch.randn(side, side, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    times = []
    for _ in range(30):
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        a @ b
        stop.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(stop) / 1000)
    return float(2 * side**3 / np.median(times[10:]))


def make_weights(skeleton: Path, folder: Path) -> None:
    """Writes random weights of the skeleton's shape, unless they exist."""
    if (folder / "config.json").exists():
        return
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        model = LlavaForConditionalGeneration(LlavaConfig.from_pretrained(skeleton))
    scale_residuals(model)
    model.save_pretrained(folder)
    torch.set_default_dtype(torch.float32)
    del model
    torch.cuda.empty_cache()
    for file in skeleton.iterdir():
        if not (folder / file.name).exists():
            shutil.copy(file, folder)


@torch.no_grad()
def scale_residuals(model: LlavaForConditionalGeneration) -> None:
    """Scales the output weights of each layer by 1 / sqrt(2 layers), like GPT-2's initialization.

    Without it rounding errors of a random network grow from layer to layer, and losses of two
    recipes cannot be compared.
    """
    layers = model.model.language_model.layers
    for layer in layers:
        for linear in (layer.self_attn.o_proj, layer.mlp.down_proj):
            linear.weight.mul_((2 * len(layers)) ** -0.5)


def machine() -> dict[str, str]:
    names = ("torch", "transformers", "trl", "peft", "bitsandbytes")
    return {
        "gpu": torch.cuda.get_device_name(),
        "cores": str(os.cpu_count()),
        **{name: version(name) for name in names},
    }


def table(report: dict[str, Any]) -> str:
    """Returns a Markdown table with speed relative to the stock recipe with checkpointing."""
    done = {row["recipe"]: row for row in report["rows"] if "error" not in row}
    base = done.get("stock-checkpointing", {}).get("samples_per_s", float("nan"))
    lines = [f"matmul {report['matmul_tflops']} TFLOP/s, {report['machine']}"]
    lines += [
        "| recipe | samples/s | x stock | tokens/s | of ceiling | peak GiB |",
        "|" + "---|" * 6,
    ]
    for name, row in done.items():
        cells = (
            name,
            f"{row['samples_per_s']:.1f}",
            f"{row['samples_per_s'] / base:.2f}",
            f"{row['tokens_per_s']:,}",
            f"{row['of_ceiling']:.0%}",
            f"{row['peak_gib']:.1f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("skeleton", type=Path)
    parser.add_argument("--weights", type=Path, default=Path("/tmp/llava-7b-random"))
    parser.add_argument("--recipes", nargs="+", default=list(RECIPES), choices=RECIPES)
    parser.add_argument("--recipe", choices=RECIPES, help="measure this recipe in this process")
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--ceiling", type=float, default=float("nan"))
    parser.add_argument("--logs", type=Path, default=Path("/tmp"))
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
