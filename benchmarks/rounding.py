"""Measures the rounding error of each faster path against float32, for gradients and for counts.

    python -m benchmarks.rounding SKELETON

All adapter tensors get random values, so that each has a gradient. The error is
|x - reference| / |reference|, where x holds all gradients of a batch, or the log-probabilities of
all counts minus their mean. The reference computes in float32 on the same 4-bit weights.
`--tables` names what to compare; the two of quantization have the unquantized weights as reference.
"""

import argparse
import gc
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.random_model import CONVERSATION, make_frames, make_weights, preset
from benchmarks.train_speed import our_trainer
from llava_dvc.checks.gradient_check import trained_tensors
from llava_dvc.evaluation.merged_weights import merge_and_compile
from llava_dvc.model.adapter import peft_config
from llava_dvc.model.backbone import backbone_encoder, load_backbone
from llava_dvc.model.counting import CountPredictor, autocast, score

Settings = tuple[str, ...]
Paths = dict[str, Settings]
Measure = Callable[[Path, Settings], Tensor]

PLAIN = ("train.checkpointing=false",)
COMPILED = (*PLAIN, "train.compile=true")
TRAINING: Paths = {
    "float32": (*PLAIN, "backbone.dtype=float32"),
    "plain": PLAIN,
    "unpacked": (*PLAIN, "backbone.unpacked=true"),
    "compiled": COMPILED,
    "fast": (*COMPILED, "backbone.unpacked=true"),
    "float16": (*PLAIN, "backbone.dtype=float16"),
}
COUNTING: Paths = {
    "float32": ("backbone.dtype=float32",),
    "plain": (),
    "compiled": ("evaluate.compile=true",),
}
UNQUANTIZED = "backbone.quantization=none"
FP8 = "backbone.quantization=fp8"
QUANTIZED_TRAINING: Paths = {
    "float32": (*PLAIN, UNQUANTIZED, "backbone.dtype=float32"),
    "bfloat16": (*PLAIN, UNQUANTIZED),
    "nf4, fast": (*COMPILED, "backbone.unpacked=true"),
    "fp8": (*PLAIN, FP8),
    "fp8, compiled": (*COMPILED, FP8),
}
QUANTIZED_COUNTING: Paths = {
    "float32": (UNQUANTIZED, "backbone.dtype=float32"),
    "bfloat16": (UNQUANTIZED,),
    "bfloat16, compiled": (UNQUANTIZED, "evaluate.compile=true"),
    "nf4": (),
    "nf4, compiled": ("evaluate.compile=true",),
    "fp8": (FP8,),
    "fp8, compiled": (FP8, "evaluate.compile=true"),
}
ROWS = 4


def main() -> None:
    arguments = parse_arguments()
    make_weights(arguments.skeleton, arguments.weights)
    for name in arguments.tables:
        what, paths, measure = TABLES[name]
        compare(what, paths, measure, arguments.weights)


def compare(what: str, paths: Paths, measure: Measure, weights: Path) -> None:
    """Prints the error of each path relative to the first path."""
    sys.stdout.write(f"| path | error of {what} |\n|---|---|\n")
    reference: Tensor | None = None
    for name, settings in paths.items():
        result = measure(weights, settings)
        torch._dynamo.reset()
        gc.collect()
        torch.cuda.empty_cache()
        reference = result if reference is None else reference
        sys.stdout.write(f"| {name} | {(result - reference).norm() / reference.norm():.2%} |\n")
        sys.stdout.flush()


def gradients(weights: Path, settings: Settings) -> Tensor:
    """Returns the gradients of all adapter tensors in one vector, in float32 on the CPU."""
    trainer = our_trainer(preset(weights, [*settings]), make_frames(ROWS))
    rows = [trainer.train_dataset[row] for row in range(ROWS)]
    batch = trainer._prepare_inputs(trainer.data_collator(rows))
    randomize(trainer.model)
    trainer.model.train()
    with trainer.accelerator.autocast():
        loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    adapters = trained_tensors(trainer.model).values()
    return torch.cat([p.grad.float().flatten().cpu() for p in adapters])


def log_probabilities(weights: Path, settings: Settings) -> Tensor:
    """Returns the log-probabilities of all counts minus their mean, `(frames, counts)`."""
    cfg = preset(weights, [*settings])
    model = load_backbone(cfg.backbone)
    encoder = backbone_encoder(cfg.backbone, cfg.image)
    model.add_adapter(peft_config(cfg.adapter, model))
    randomize(model)
    if cfg.evaluate.compile:
        merge_and_compile(model)
    predictor = CountPredictor(model, encoder, CONVERSATION.question, 99)
    [batch] = predictor.batches(make_frames(ROWS)["image"], ROWS)
    with autocast(model):
        scores = score(model, batch, predictor.tree)
        logs = predictor.tree.log_probabilities(scores.nodes).cpu()
    return logs - logs.mean(dim=1, keepdim=True)


def randomize(model: Any) -> None:
    """Sets the adapter tensors to random values."""
    torch.manual_seed(0)
    for parameter in trained_tensors(model).values():
        torch.nn.init.normal_(parameter, std=0.02)


TABLES: dict[str, tuple[str, Paths, Measure]] = {
    "training": ("the gradient, when training", TRAINING, gradients),
    "counting": ("log P(count), when counting", COUNTING, log_probabilities),
    "quantized-training": ("the gradient, of unquantized", QUANTIZED_TRAINING, gradients),
    "quantized-counting": ("log P(count), of unquantized", QUANTIZED_COUNTING, log_probabilities),
}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("skeleton", type=Path)
    parser.add_argument("--weights", type=Path, default=Path("/tmp/llava-7b-random"))
    parser.add_argument("--tables", nargs="+", default=list(TABLES), choices=TABLES)
    return parser.parse_args()


if __name__ == "__main__":
    main()
