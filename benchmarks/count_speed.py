"""Measures how many frames per second LLaVA-1.5-7B counts on one GPU, with distribution and reply.

    python -m benchmarks.count_speed SKELETON [--frames 1024] [--batch 32]

The weights are random, so digits are made the likeliest tokens and EOS follows them, as in a tuned
model. Otherwise no reply would be a number, and each would be generated separately. 640x480 JPEG
frames are decoded in worker processes. The ceiling is the speed of a large matrix product in the
same run.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.arithmetic import linear_weights, matmul_rate, positions
from benchmarks.random_model import CONVERSATION, make_frames, make_weights, preset
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
    "nf4, folded, 2 x 2 tiles": [FOLDED, "image.tiles=[2, 2]"],
    "bfloat16, folded": ["backbone.quantization=none", FOLDED],
    "fp8, folded": ["backbone.quantization=fp8", FOLDED],
    "fp8, folded, no border": ["backbone.quantization=fp8", FOLDED, "image.drop_border=true"],
}


def main() -> None:
    arguments = parse_arguments()
    make_weights(arguments.skeleton, arguments.weights)
    ceiling = matmul_rate()
    rows = make_frames(arguments.frames)["image"]
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
            share = speed * operations_per_frame(model, encoder) / ceiling
            peak = torch.cuda.max_memory_allocated() / 2**30
            sys.stdout.write(
                f"| {name} | {batch} | {speed:.1f} | {share:.0%} | {peak:.1f} | {loading:.1f} |\n"
            )
            sys.stdout.flush()
            torch._dynamo.reset()  # torch.compile handles eight shapes at most
        del model
        torch.cuda.empty_cache()


def frames_per_second(model: Any, encoder: Encoder, rows: Any, batch: int) -> float:
    """Measures from JPEG bytes to P(count) and reply, after a warm-up."""
    predictor = CountPredictor(model, encoder, CONVERSATION.question, 99)
    predictor.predict(rows[: 2 * batch], batch)
    torch.cuda.reset_peak_memory_stats()
    began = time.monotonic()
    answers = predictor.predict(rows, batch)
    seconds = time.monotonic() - began
    if not all(reply.isdigit() for reply in answers.replies):
        raise RuntimeError(f"replies are not numbers: {answers.replies[:5]}")
    return len(rows) / seconds


def prefer_numbers(model: Any, encoder: Encoder) -> None:
    """Makes digits the likeliest tokens after the prompt, and EOS after a number."""
    tokenizer = encoder.processor.tokenizer
    digits = torch.tensor(tokenizer.convert_tokens_to_ids(list("0123456789")), device=model.device)
    end = tokenizer.eos_token_id

    def raise_logits(_: Any, __: Any, logits: torch.Tensor) -> torch.Tensor:
        logits[..., end if logits.shape[1] == 1 else digits] += 1000
        return logits

    model.lm_head.register_forward_hook(raise_logits)


def operations_per_frame(model: Any, encoder: Encoder) -> float:
    """Returns the minimal floating-point operations per frame: prompt, tree of 99 counts, tower."""
    language, tower = linear_weights(model.config)
    tokens = positions(model.config) - 1 + 27 + 9
    if padding := encoder.padding((640, 480)):
        tokens -= padding.dropped
    return float(2 * language * tokens + 2 * tower * positions(model.config))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("skeleton", type=Path)
    parser.add_argument("--weights", type=Path, default=Path("/tmp/llava-7b-random"))
    parser.add_argument("--bases", nargs="+", default=list(BASES), choices=BASES)
    parser.add_argument("--frames", type=int, default=1024)
    parser.add_argument("--batch", type=int, nargs="+", default=[32])
    return parser.parse_args()


if __name__ == "__main__":
    main()
