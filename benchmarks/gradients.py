"""How far each way to be faster is from the plain path: gradients of one batch against float32's.

    python -m benchmarks.gradients SKELETON

Every adapter tensor is set to random values, so that all of them get a gradient. Errors are
|g - reference| / |reference| over all of them together; the reference computes in float32 on the
same 4-bit weights.
"""

import argparse
import sys
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.train_speed import frames, make_weights, ours, preset

PLAIN = ("train.checkpointing=false",)
COMPILED = (*PLAIN, "train.compile=true")
PATHS: dict[str, tuple[str, ...]] = {
    "float32": (*PLAIN, "backbone.dtype=float32"),
    "plain": PLAIN,
    "unpacked": (*PLAIN, "backbone.unpacked=true"),
    "compiled": COMPILED,
    "fast": (*COMPILED, "backbone.unpacked=true"),
    "float16": (*PLAIN, "backbone.dtype=float16"),
}
ROWS = 4


def main() -> None:
    arguments = _parse()
    make_weights(arguments.skeleton, arguments.weights)
    reference: dict[str, Tensor] = {}
    sys.stdout.write("| path | loss | error of the gradient |\n|---|---|---|\n")
    for name, settings in PATHS.items():
        loss, found = gradients(arguments.weights, list(settings))
        reference = reference or found
        sys.stdout.write(f"| {name} | {loss:.5f} | {distance(found, reference):.2%} |\n")
        sys.stdout.flush()


def gradients(weights: Path, settings: list[str]) -> tuple[float, dict[str, Tensor]]:
    """Loss, and the gradient of every adapter tensor, in float32 on the CPU."""
    trainer = ours(preset(weights, settings), frames(ROWS))
    rows = [trainer.train_dataset[row] for row in range(ROWS)]
    batch = trainer._prepare_inputs(trainer.data_collator(rows))
    torch.manual_seed(0)
    adapters = {n: p for n, p in trainer.model.named_parameters() if p.requires_grad}
    for parameter in adapters.values():
        torch.nn.init.normal_(parameter, std=0.02)
    trainer.model.train()
    with trainer.accelerator.autocast():
        loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    found = {name: p.grad.float().cpu() for name, p in adapters.items()}
    torch._dynamo.reset()
    return loss.item(), found


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
