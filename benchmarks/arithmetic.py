"""The arithmetic of a step and of a card, to compare speeds with."""

import os
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from transformers import LlavaConfig


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
    return 2 * side**3 / gpu_seconds(lambda: a @ b)


def gpu_seconds(work: Callable[[], Any]) -> float:
    """Returns the median seconds of `work` on the GPU: of 20 runs, after 10 to warm up."""
    times = []
    for _ in range(30):
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        stop.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(stop) / 1000)
    return float(np.median(times[10:]))


def machine() -> dict[str, str]:
    names = ("torch", "transformers", "trl", "peft", "bitsandbytes")
    return {
        "gpu": torch.cuda.get_device_name(),
        "cores": str(os.cpu_count()),
        **{name: version(name) for name in names},
    }
