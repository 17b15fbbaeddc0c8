"""Counting speed of LLaVA-1.5-7B on one GPU: frames a second with the whole distribution and reply.

    python -m benchmarks.count_speed SKELETON [--frames 1024] [--batch 32]

Random weights would write no numbers, and every reply would be generated apart: digits are made the
likeliest tokens, and the end after them, as a tuned model has it. 640x480 JPEG frames are decoded
in worker processes. The ceiling is what a large matrix product reaches in the same run.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.train_speed import (
    ASKED,
    frames,
    linear_weights,
    make_weights,
    matmul_rate,
    places,
    preset,
)
from llava_dvc.evaluation.merged_weights import merge_and_compile
from llava_dvc.model.adapter import peft_config
from llava_dvc.model.backbone import backbone_encoder, load_backbone
from llava_dvc.model.counting import CountPredictor
from llava_dvc.model.encoder import Encoder

FOLDED = "evaluate.compile=true"
BASES = {
    "nf4": [],
    "nf4, folded": [FOLDED],
    "nf4, folded, no border": [FOLDED, "image.drop_border=true"],
    "bfloat16, folded": ["backbone.quantization=none", FOLDED],
}


def main() -> None:
    arguments = _parse()
    make_weights(arguments.skeleton, arguments.weights)
    ceiling = matmul_rate()
    rows = frames(arguments.frames)["image"]
    sys.stdout.write(f"matmul {ceiling / 1e12:.1f} TFLOP/s\n")
    for name in arguments.bases:
        cfg = preset(arguments.weights, BASES[name])
        began = time.monotonic()
        model = load_backbone(cfg.backbone)
        loading = time.monotonic() - began
        encoder = backbone_encoder(cfg.backbone, cfg.image)
        model.add_adapter(peft_config(cfg.adapter, model))
        prefer_numbers(model, encoder)
        if cfg.evaluate.compile:
            merge_and_compile(model)
        for batch in arguments.batch:
            speed = frames_per_second(model, encoder, rows, batch)
            share = speed * arithmetic(model, encoder) / ceiling
            peak = torch.cuda.max_memory_allocated() / 2**30
            sys.stdout.write(
                f"| {name} | {batch} | {speed:.1f} | {share:.0%} | {peak:.1f} | {loading:.1f} |\n"
            )
            sys.stdout.flush()
            torch._dynamo.reset()  # it compiles for eight shapes, and no more
        del model
        torch.cuda.empty_cache()


def frames_per_second(model: Any, encoder: Encoder, rows: Any, batch: int) -> float:
    """Warmed up on one batch; everything from the JPEG bytes to P(count) and reply."""
    CountPredictor(model, encoder, ASKED.question, 99).predict(rows[: 2 * batch], batch)
    torch.cuda.reset_peak_memory_stats()
    began = time.monotonic()
    answers = CountPredictor(model, encoder, ASKED.question, 99).predict(rows, batch)
    seconds = time.monotonic() - began
    if not all(reply.isdigit() for reply in answers.replies):
        raise RuntimeError(f"replies are not numbers: {answers.replies[:5]}")
    return len(rows) / seconds


def prefer_numbers(model: Any, encoder: Encoder) -> None:
    """Digits after the prompt, the end after a number."""
    tokenizer = encoder.processor.tokenizer
    digits = torch.tensor(tokenizer.convert_tokens_to_ids(list("0123456789")), device=model.device)
    end = tokenizer.eos_token_id

    def lift(_: Any, __: Any, logits: torch.Tensor) -> torch.Tensor:
        logits[..., end if logits.shape[1] == 1 else digits] += 1000
        return logits

    model.lm_head.register_forward_hook(lift)


def arithmetic(model: Any, encoder: Encoder) -> float:
    """Floating-point operations a frame cannot do without: prompt, tree of 99 counts, tower."""
    language, tower = linear_weights(model.config)
    tokens = places(model.config) - 1 + 27 + 9
    if encoder.border:
        tokens -= encoder.border.dropped
    return float(2 * language * tokens + 2 * tower * places(model.config))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("skeleton", type=Path)
    parser.add_argument("--weights", type=Path, default=Path("/tmp/llava-7b-random"))
    parser.add_argument("--bases", nargs="+", default=list(BASES), choices=BASES)
    parser.add_argument("--frames", type=int, default=1024)
    parser.add_argument("--batch", type=int, nargs="+", default=[32])
    return parser.parse_args()


if __name__ == "__main__":
    main()
