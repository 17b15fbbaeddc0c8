"""Backbone and adapter merged into one model, for servers without PEFT.

Its weights are not in 4 bits. It is not the model that was evaluated, and gets its own evaluation.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from transformers import AutoProcessor, LlavaForConditionalGeneration

from llava_dvc import config
from llava_dvc.checks.hardware import require_hardware
from llava_dvc.dataset import load_split
from llava_dvc.evaluation.merged_weights import merged_weight
from llava_dvc.evaluation.plots import draw_all
from llava_dvc.evaluation.predictions import (
    answer_split,
    prediction_table,
    score_predictions,
)
from llava_dvc.load_errors import explain_load_errors
from llava_dvc.model.backbone import load_backbone, load_encoder
from llava_dvc.model.calibration import fit_temperature
from llava_dvc.publishing.card import CardFacts
from llava_dvc.publishing.folder import add_card_and_manifest, evaluated_recipe, merged_repo
from llava_dvc.recipe import Recipe


def publish_merged(
    folder: Path,
    facts: CardFacts,
    adapter: Path,
    prepared: Path,
    evaluate: config.Evaluate,
    inputs: Mapping[str, str],
) -> None:
    """Writes the merged model, its card and its manifest into `folder`.

    `facts` are those of the adapter.
    """
    repo = merged_repo(facts.repo)
    merge(facts.recipe.backbone, adapter, folder)
    with TemporaryDirectory() as drawn:
        plots = Path(drawn) / "plots"
        figures = evaluate_merged(folder, facts.recipe, prepared, evaluate, plots)
        recipe = evaluated_recipe(facts.recipe, evaluate, figures)
        merged = _merged_backbone(recipe.backbone, repo)
        # `predict --smooth` reads adapters only, and the smoothing was not fitted on this model.
        recipe.model_copy(update={"backbone": merged, "smoothing": None}).write(folder)
        own = replace(facts, repo=repo, recipe=recipe, metrics=figures, merged=True)
        facts = replace(own, improvements={}, examples=())  # they are those of the adapter
        add_card_and_manifest(folder, facts, plots=plots, evaluate=evaluate, inputs=inputs)


def merge(backbone: config.Backbone, adapter: Path, folder: Path) -> None:
    """Writes backbone and adapter as one model in `backbone.dtype`, with the adapter's processor.

    PEFT's own merge rounds to the nearest: in 16 bits that loses most of a small adapter.
    """
    torch.set_num_threads(backbone.threads)
    with explain_load_errors(backbone):
        base = LlavaForConditionalGeneration.from_pretrained(
            backbone.name,
            revision=backbone.revision,
            dtype=getattr(torch, backbone.dtype),
            use_safetensors=True,
        )
    model = PeftModel.from_pretrained(base, adapter)
    for layer in model.modules():
        if isinstance(layer, LoraLayer):
            layer.get_base_layer().weight.data = merged_weight(layer)
    model.unload().save_pretrained(folder)
    AutoProcessor.from_pretrained(adapter, trust_remote_code=False).save_pretrained(folder)


def evaluate_merged(
    folder: Path, recipe: Recipe, prepared: Path, evaluate: config.Evaluate, plots: Path
) -> dict[str, Any]:
    """Loads the model from `folder` and evaluates it. Draws its plots.

    Returns the keys of metrics/evaluate.json.
    """
    val, rows = load_split(prepared, "val"), load_split(prepared, "eval")
    merged = _merged_backbone(recipe.backbone, str(folder))
    require_hardware(merged)
    model = load_backbone(merged)
    encoder = load_encoder(folder, recipe.image)
    answers = answer_split(model, encoder, val, evaluate)
    temperature = fit_temperature(answers.probabilities, val["count"])
    frames = prediction_table(model, encoder, rows, evaluate, temperature)
    scores = score_predictions(frames, temperature)
    draw_all(frames, scores, rows["image"], plots)
    return scores


def _merged_backbone(backbone: config.Backbone, name: str) -> config.Backbone:
    """The `backbone` section of the merged weights, which are at `name`."""
    changes = {"name": name, "revision": None, "quantization": "none", "unpacked": False}
    return backbone.model_copy(update=changes)
