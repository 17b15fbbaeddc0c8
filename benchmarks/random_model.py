"""LLaVA-1.5-7B with random weights, and frames for it. The arithmetic is that of the real ones."""

import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from peft import PeftModel, get_peft_model
from PIL import Image
from transformers import LlavaConfig, LlavaForConditionalGeneration

from benchmarks.settings import overridden
from llava_dvc.config import Config, load_config
from llava_dvc.conversation import PLACEHOLDER, Conversation
from llava_dvc.dataset import FEATURES
from llava_dvc.model.adapter import peft_config
from llava_dvc.model.backbone import backbone_encoder, load_backbone
from llava_dvc.model.encoder import Encoder
from llava_dvc.recipe import Recipe, versions

CONVERSATION = Conversation(
    "How many people are in this image? Answer with a single number.", PLACEHOLDER
)


def preset(weights: Path, settings: list[str]) -> Config:
    """Returns the 7B preset with random weights and the given settings."""
    cfg = load_config(Path("presets/llava-1.5-7b.yaml"))
    return overridden(cfg, [f"backbone.name={weights}", "backbone.revision=null", *settings])


def untrained_adapter(cfg: Config) -> tuple[PeftModel, Encoder, Recipe]:
    """Returns the model with an adapter as before the first step. Its B is zero: that changes
    answers, but no time.
    """
    model: Any = load_backbone(cfg.backbone)
    recipe = Recipe(
        backbone=cfg.backbone,
        image=cfg.image,
        question=CONVERSATION.question,
        decode=cfg.evaluate.decode,
        max_count=cfg.evaluate.max_count,
        temperature=1.0,
        versions=versions(),
    )
    tuned = get_peft_model(model, peft_config(cfg.adapter, model))
    return tuned, backbone_encoder(cfg.backbone, cfg.image), recipe


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
        "points": [_spread(13 + n % 38) for n in range(number)],
        "messages": [conversations[n % 38] for n in range(number)],
    }
    return Dataset.from_dict(columns, features=FEATURES)


def _spread(people: int) -> list[dict[str, float]]:
    """Returns a head for each person, from corner to corner of the frame."""
    return [{"x": 639.0 * n / people, "y": 479.0 * n / people} for n in range(people)]


def _jpeg(rng: np.random.Generator) -> bytes:
    coarse = Image.fromarray(rng.integers(0, 255, (60, 80, 3), dtype=np.uint8))
    file = io.BytesIO()
    coarse.resize((640, 480), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
    return file.getvalue()


def make_weights(
    skeleton: Path,
    folder: Path,
    change: Callable[[LlavaForConditionalGeneration, Path], None] = lambda *_: None,
) -> None:
    """Writes random weights of the skeleton's shape, unless they exist. `change` gets the model and
    the skeleton before.
    """
    if (folder / "config.json").exists():
        return
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = LlavaForConditionalGeneration(LlavaConfig.from_pretrained(skeleton))
    scale_residuals(model)
    change(model, skeleton)
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
