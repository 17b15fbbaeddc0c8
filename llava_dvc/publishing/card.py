"""The model card of a published folder: metadata for the Hub, and text for people."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from llava_dvc import config
from llava_dvc.recipe import Recipe

if TYPE_CHECKING:
    from llava_dvc.publishing.training_frames import Example, TrainingFrames

TEMPLATE = Path(__file__).with_name("model_card.md.jinja")
BASELINES_TO_BEAT = ("train_mean", "zero_shot", "ridge_features")
"""Blind interpolation is not in this list. It knows the labels of the frames before and after, so
it measures how far the split leaks.
"""
TAGS = ["llava", "trl", "sft", "crowd-counting", "people-counting", "cctv", "llava-dvc"]
LLAVA_1_5 = "llava-hf/llava-1.5-"
"""Start of the Hub ids of LLaVA-1.5. Its weights come from Llama 2 and have the same licence."""
HEADLINE = ("mae", "rmse", "bias", "accuracy", "coverage_80")
"""The figures in the head of the card. metrics/evaluate.json has all of them."""


@dataclass(frozen=True)
class CardFacts:
    """The values that a card states."""

    repo: str
    """Hub repository, `owner/name`."""
    recipe: Recipe
    report: dict[str, Any]
    """Content of prepared/report.json."""
    frames: "TrainingFrames"
    baseline: dict[str, dict[str, float]]
    """Content of metrics/baseline.json."""
    metrics: dict[str, Any]
    """Content of metrics/evaluate.json; the merged model has its own."""
    split: config.Split
    adapter: config.Adapter
    train: config.Train
    adapter_sha256: str
    improvements: Mapping[str, Any] = field(default_factory=dict)
    """evaluation.improvement.Improvement by the name of a baseline; empty for the merged model."""
    examples: tuple["Example", ...] = ()
    """Empty unless the frames are drawn, and for the merged model."""
    merged: bool = False
    """True for the card of the merged model, False for the card of the adapter."""

    @property
    def best_baseline(self) -> str:
        """The baseline to beat with the smallest MAE."""
        return min(BASELINES_TO_BEAT, key=lambda name: self.baseline[name]["mae"])

    @property
    def compared(self) -> list[str]:
        """The baselines whose difference to the adapter the card states: the best one, and ridge
        regression.
        """
        names = dict.fromkeys([self.best_baseline, "ridge_features"])
        return [name for name in names if name in self.improvements]

    @property
    def owner(self) -> str:
        return self.repo.split("/")[0]

    @property
    def model_name(self) -> str:
        return self.repo.split("/")[1]

    @property
    def of_llava_1_5(self) -> bool:
        """Whether the backbone is LLaVA-1.5 itself, which asks to be cited."""
        return self.base_model.startswith(LLAVA_1_5)

    @property
    def base_model(self) -> str:
        """The backbone's Hub id. For a local backbone, the name of its folder without the path."""
        backbone = self.recipe.backbone
        return backbone.name if backbone.revision else Path(backbone.name).name


def write_card(facts: CardFacts, folder: Path) -> None:
    """Writes README.md into `folder`. The same facts give the same bytes."""
    # Jinja removes the last line break of a template.
    (folder / "README.md").write_text(f"{build_card(facts)}\n", encoding="utf-8")


def build_card(facts: CardFacts) -> ModelCard:
    card: ModelCard = ModelCard.from_template(
        card_metadata(facts),
        template_path=str(TEMPLATE),
        facts=facts,
        better=better_baselines(facts.metrics, facts.baseline),
        quoted=_quoted,
    )
    return card


def better_baselines(metrics: dict[str, Any], baseline: dict[str, dict[str, float]]) -> list[str]:
    """Returns the baselines to beat that have a smaller MAE than `metrics`, the best first."""
    better = [name for name in BASELINES_TO_BEAT if baseline[name]["mae"] < metrics["mae"]]
    return sorted(better, key=lambda name: baseline[name]["mae"])


def card_metadata(facts: CardFacts) -> ModelCardData:
    """Returns the head of the card, which the Hub reads."""
    return ModelCardData(
        base_model=facts.base_model,
        base_model_relation="finetune" if facts.merged else "adapter",
        library_name="transformers" if facts.merged else "peft",
        pipeline_tag="image-text-to-text",
        license=backbone_license(facts.recipe.backbone),
        metrics=["mae", "rmse", "accuracy"],
        tags=_tags(facts),
        model_name=facts.model_name,
        eval_results=_evaluation_results(facts),
    )


def backbone_license(backbone: config.Backbone) -> str:
    """Returns the backbone's licence, which a model tuned from it must keep.

    Returns "other" when the backbone is not LLaVA-1.5 and its folder has no card with a licence.
    """
    if backbone.name.startswith(LLAVA_1_5):
        return "llama2"
    path = Path(backbone.name) / "README.md"
    license = ModelCard.load(path).data.license if path.is_file() else None
    return str(license or "other")


def _tags(facts: CardFacts) -> list[str]:
    if facts.merged:
        return TAGS
    of_weights = {"nf4": ["qlora", "4-bit"], "fp8": ["fp8"], "none": []}
    quantization = facts.recipe.backbone.quantization
    return [*TAGS, "peft", facts.adapter.method, *of_weights[quantization]]


def _evaluation_results(facts: CardFacts) -> list[EvalResult]:
    """Returns one result for each headline figure."""
    return [
        EvalResult(
            task_type="image-text-to-text",
            task_name="Counting people",
            dataset_type="private",
            dataset_name="Held-out CCTV frames",
            dataset_split="eval",
            dataset_revision=facts.report["data_md5"],
            metric_type=name,
            metric_name=name.replace("_", " "),
            metric_value=facts.metrics[name],
        )
        for name in HEADLINE
    ]


def _quoted(text: str) -> str:
    """Returns `text` as a string literal of Python."""
    return json.dumps(text, ensure_ascii=False)
