"""Backbone and adapter in one model, for those who serve without PEFT. Its weights are not rounded
to 4 bits: it is another model than the one that was evaluated, and is evaluated by itself.
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
    *,
    prepared: Path,
    evaluate: config.Evaluate,
    inputs: Mapping[str, str],
) -> None:
    """Fill `folder` with the merged model and all that belongs to it; `facts` are the adapter's."""
    repo = merged_repo(facts.repo)
    merge(facts.recipe.backbone, adapter, folder)
    with TemporaryDirectory() as drawn:
        plots = Path(drawn) / "plots"
        figures = evaluate_merged(folder, facts.recipe, prepared, evaluate, plots)
        recipe = evaluated_recipe(facts.recipe, evaluate, figures)
        whole = _whole(recipe.backbone, repo)
        recipe.model_copy(update={"backbone": whole}).write(folder)
        facts = replace(facts, repo=repo, recipe=recipe, metrics=figures, merged=True)
        add_card_and_manifest(folder, facts, plots=plots, evaluate=evaluate, inputs=inputs)


def merge(backbone: config.Backbone, adapter: Path, folder: Path) -> None:
    """Write backbone and adapter as one model in `backbone.dtype`, and the adapter's processor.

    Not by PEFT, which rounds to the nearest: in 16 bits little would be left of a small adapter.
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
    """The figures of the model in `folder`, loaded from there, as metrics/evaluate.json has them;
    draws its plots.
    """
    val, rows = load_split(prepared, "val"), load_split(prepared, "eval")
    whole = _whole(recipe.backbone, str(folder))
    require_hardware(whole)
    model = load_backbone(whole)
    encoder = load_encoder(folder, None, recipe.image)
    answers = answer_split(model, encoder, val, evaluate)
    temperature = fit_temperature(answers.probabilities, val["count"])
    frames = prediction_table(model, encoder, rows, evaluate, temperature)
    scores = score_predictions(frames, temperature)
    draw_all(frames, scores, rows["image"], plots)
    return scores


def _whole(backbone: config.Backbone, name: str) -> config.Backbone:
    """The backbone with the merged weights, called `name`."""
    whole = {"name": name, "revision": None, "quantization": "none", "unpacked": False}
    return backbone.model_copy(update=whole)
