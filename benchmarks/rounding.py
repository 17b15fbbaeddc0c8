"""How far each way to be faster is from float32: gradients of one batch, and counts of another.

    python -m benchmarks.rounding SKELETON

Every adapter tensor is set to random values, so that all of them get a gradient. Errors are
|x - reference| / |reference| over all gradients, or all counts' centred log-probabilities,
together; the reference computes in float32 on the same 4-bit weights.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.train_speed import ASKED, frames, make_weights, ours, preset
from llava_dvc.adapter import peft_config
from llava_dvc.backbone import load_backbone, load_processor
from llava_dvc.conversation import render_prompt
from llava_dvc.counting import as_trained, loader, score
from llava_dvc.folding import fold_and_compile
from llava_dvc.tree import CountTree

PLAIN = ("train.checkpointing=false",)
COMPILED = (*PLAIN, "train.compile=true")
TRAINING: dict[str, tuple[str, ...]] = {
    "float32": (*PLAIN, "backbone.dtype=float32"),
    "plain": PLAIN,
    "unpacked": (*PLAIN, "backbone.unpacked=true"),
    "compiled": COMPILED,
    "fast": (*COMPILED, "backbone.unpacked=true"),
    "float16": (*PLAIN, "backbone.dtype=float16"),
}
COUNTING: dict[str, tuple[str, ...]] = {
    "float32": ("backbone.dtype=float32",),
    "plain": (),
    "compiled": ("evaluate.compile=true",),
}
ROWS = 4


def main() -> None:
    arguments = _parse()
    make_weights(arguments.skeleton, arguments.weights)
    reference: dict[str, Tensor] = {}
    sys.stdout.write("| training | loss | error of the gradient |\n|---|---|---|\n")
    for name, settings in TRAINING.items():
        loss, found = gradients(arguments.weights, list(settings))
        reference = reference or found
        sys.stdout.write(f"| {name} | {loss:.5f} | {distance(found, reference):.2%} |\n")
        sys.stdout.flush()
    reference = {}
    sys.stdout.write("| counting | error of log P(count) |\n|---|---|\n")
    for name, settings in COUNTING.items():
        counted = {"log P": log_probabilities(arguments.weights, list(settings))}
        reference = reference or counted
        sys.stdout.write(f"| {name} | {distance(counted, reference):.2%} |\n")
        sys.stdout.flush()


def gradients(weights: Path, settings: list[str]) -> tuple[float, dict[str, Tensor]]:
    """Loss, and the gradient of every adapter tensor, in float32 on the CPU."""
    trainer = ours(preset(weights, settings), frames(ROWS))
    rows = [trainer.train_dataset[row] for row in range(ROWS)]
    batch = trainer._prepare_inputs(trainer.data_collator(rows))
    adapters = learn(trainer.model)
    trainer.model.train()
    with trainer.accelerator.autocast():
        loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    found = {name: p.grad.float().cpu() for name, p in adapters.items()}
    torch._dynamo.reset()
    return loss.item(), found


def log_probabilities(weights: Path, settings: list[str]) -> Tensor:
    """Of all counts, less their mean, `(frames, counts)`."""
    cfg = preset(weights, settings)
    model = load_backbone(cfg.backbone)
    processor = load_processor(cfg.backbone, cfg.image)
    model.add_adapter(peft_config(cfg.adapter, model))
    learn(model)
    if cfg.evaluate.compile:
        fold_and_compile(model)
    prompt = render_prompt(processor, ASKED.messages(None))
    tree = CountTree.build(processor, prompt, 99).to(model.device)
    [batch] = loader(processor, frames(ROWS)["image"], prompt, ROWS, model.device)
    with as_trained(model):
        logs = tree.log_probabilities(score(model, batch, tree).nodes).cpu()
    torch._dynamo.reset()
    return logs - logs.mean(dim=1, keepdim=True)


def learn(model: Any) -> dict[str, Tensor]:
    """The adapters' tensors by name, random now."""
    torch.manual_seed(0)
    adapters = {n: p for n, p in model.named_parameters() if "lora_" in n}
    for parameter in adapters.values():
        torch.nn.init.normal_(parameter, std=0.02)
    return adapters


def distance(found: dict[str, Tensor], reference: dict[str, Tensor]) -> float:
    def length(tensors: list[Tensor]) -> float:
        return sum(float(tensor.double().square().sum()) for tensor in tensors) ** 0.5

    return length([found[n] - g for n, g in reference.items()]) / length(list(reference.values()))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("skeleton", type=Path)
    parser.add_argument("--weights", type=Path, default=Path("/tmp/llava-7b-random"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
