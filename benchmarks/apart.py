"""A benchmark's parts in processes of their own, and a limit to their GPU memory."""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch

MARK = "RESULT "


def run_apart(
    arguments: Sequence[str], environment: Mapping[str, str] | None = None
) -> tuple[dict[str, Any], str]:
    """Runs Python with these arguments. Returns what the process told, or its error; and all that
    it wrote.
    """
    done = subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True, check=False
    )
    told = [line for line in done.stdout.splitlines() if line.startswith(MARK)]
    found = json.loads(told[0][len(MARK) :]) if told else {"error": done.stderr[-500:]}
    return found, done.stdout + done.stderr


def tell(figures: dict[str, Any]) -> None:
    """Gives figures to the process that runs this one."""
    sys.stdout.write(f"{MARK}{json.dumps(figures)}\n")


def limit_memory(gib: float | None) -> None:
    """PyTorch may take so much of the GPU's memory. None: all of it."""
    if gib is not None:
        whole = torch.cuda.mem_get_info()[1]
        torch.cuda.set_per_process_memory_fraction(gib * 2**30 / whole)
