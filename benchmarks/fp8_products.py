"""Compares FP8 products on the GPU with their emulation on the CPU, and with bfloat16's speed.

    python -m benchmarks.fp8_products

The shapes are those of a batch of LLaVA-1.5-7B in training. `difference` is |GPU - CPU| / |CPU| of
the product, and of the gradient of its input. `TFLOP/s` are of the bare products; `rounding` is the
time to round the input in a kernel of its own, with its start from Python, as a share of the FP8
product's time.
"""

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from benchmarks.arithmetic import gpu_seconds
from llava_dvc.model.fp8.products import (
    Fp8Product,
    add_low_rank,
    gated_gradient,
    multiply_rows,
    quantize_rows,
    rotated_gradient,
    transposed_copy,
)

TOKENS = 8 * 605
SHAPES = {
    "query, key, value": (4096, 12288),
    "output": (4096, 4096),
    "gate, up": (4096, 22016),
    "down": (11008, 4096),
}
CHECKED = 37
"""Tokens that the CPU multiplies too: no multiple of 16, and two of them zeros."""


def main() -> None:
    titles = "product", "difference", "of gradient", "bf16 TFLOP/s", "FP8 TFLOP/s", "rounding"
    lines = [titles, ["---"] * len(titles)]
    for name, (width, outputs) in SHAPES.items():
        lines.append((name, *differences(width, outputs), *speeds(width, outputs)))
    lines.append(("output, of 1 token, and of 7", *map(small_difference, (1, 7)), "", "", ""))
    for name, work in KERNELS.items():
        lines.append((name, f"{kernel_difference(work):.2%}", "", "", "", ""))
    for line in lines:
        sys.stdout.write(f"| {' | '.join(line)} |\n")


def random_matrix(rows: int, columns: int, device: str) -> Tensor:
    return torch.randn(rows, columns, device=device, dtype=torch.bfloat16)


def products(x: Tensor, weight: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the product and the gradient of its input, on the CPU."""
    x = x.clone().requires_grad_()
    rounded, scale = quantize_rows(weight)
    output = Fp8Product.apply(x, rounded, scale, transposed_copy(rounded))
    output.backward(gradient)
    return output.detach().float().cpu(), x.grad.float().cpu()


def differences(width: int, outputs: int, tokens: int = CHECKED) -> list[str]:
    """Returns the relative differences of product and gradient between GPU and CPU."""
    torch.manual_seed(0)
    x, weight = random_matrix(tokens, width, "cpu"), random_matrix(outputs, width, "cpu")
    gradient = 1e-6 * random_matrix(tokens, outputs, "cpu")
    if tokens > 2:
        x[1], gradient[2] = 0, 0
    on_cpu = products(x, weight, gradient)
    on_gpu = products(x.cuda(), weight.cuda(), gradient.cuda())
    pairs = zip(on_gpu, on_cpu, strict=True)
    return [f"{(one - other).norm() / other.norm():.2%}" for one, other in pairs]


def small_difference(tokens: int) -> str:
    return " and ".join(differences(4096, 4096, tokens))


def kernel_difference(work: Callable[[str], Tensor]) -> float:
    """Returns the relative difference of a kernel's result from that of its plain twin."""
    on_gpu, on_cpu = work("cuda").float().cpu(), work("cpu").float()
    return float((on_gpu - on_cpu).norm() / on_cpu.norm())


def adapter_added(device: str) -> Tensor:
    torch.manual_seed(0)
    x, weight = random_matrix(CHECKED, 512, "cpu"), random_matrix(8448, 512, "cpu")
    low, halves = random_matrix(CHECKED, 64, "cpu"), random_matrix(8448, 32, "cpu").chunk(2)
    up = torch.block_diag(*halves)
    rows, rounded = quantize_rows(x.to(device)), quantize_rows(weight.to(device))
    result: Tensor = add_low_rank(*rows, *rounded, low.to(device), up.to(device), 2)
    return result


def gated(device: str) -> Tensor:
    torch.manual_seed(0)
    outputs, of_hidden = (random_matrix(CHECKED, width, "cpu") for width in (22016, 11008))
    scale = (torch.rand(22016, 1) + 1).to(device)
    found = gated_gradient(outputs.to(device), of_hidden.to(device) * 1e-6, scale)
    return unrounded(*found, scale)


def rotated(device: str) -> Tensor:
    torch.manual_seed(0)
    heads = torch.randn(3, 2, CHECKED, 32, 128).transpose(2, 3).bfloat16()
    angles = torch.rand(1, CHECKED, 64).repeat(1, 1, 2)
    rotation = angles.cos().bfloat16().to(device), angles.sin().bfloat16().to(device)
    scale = (torch.rand(12288, 1) + 1).to(device)
    found = rotated_gradient(*heads.to(device), *rotation, scale)
    return unrounded(*found, scale)


def unrounded(gradient: Tensor, rounded: Tensor, own: Tensor, scale: Tensor) -> Tensor:
    """Returns the gradient, and the one that its e4m3 numbers and scales stand for."""
    return torch.cat([gradient.float(), rounded.float() * own / scale.T])


KERNELS = {"adapter added": adapter_added, "gated gradient": gated, "rotated gradient": rotated}


def speeds(width: int, outputs: int) -> list[str]:
    """Returns the speeds of a bfloat16 and an FP8 product, and the time to round the input."""
    x, weight = random_matrix(TOKENS, width, "cuda"), random_matrix(outputs, width, "cuda")
    rows, rounded = quantize_rows(x), quantize_rows(weight)
    rounding: Any = torch.compile(quantize_rows, dynamic=False)
    operations = 2 * TOKENS * width * outputs
    plain = gpu_seconds(lambda: linear(x, weight))
    fp8 = gpu_seconds(lambda: multiply_rows(*rows, *rounded, torch.bfloat16))
    share = gpu_seconds(lambda: rounding(x)) / fp8
    return [f"{operations / plain / 1e12:.0f}", f"{operations / fp8 / 1e12:.0f}", f"{share:.0%}"]


if __name__ == "__main__":
    main()
