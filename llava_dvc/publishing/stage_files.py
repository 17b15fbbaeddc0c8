"""The files that publish reads and writes, and what the card says of them."""

from pathlib import Path
from typing import NamedTuple

from llava_dvc.config import Adapter, Evaluate, Split, Train
from llava_dvc.files import read_json
from llava_dvc.publishing.card import CardFacts
from llava_dvc.publishing.folder import evaluated_recipe
from llava_dvc.recipe import Recipe, adapter_sha256


class StageFiles(NamedTuple):
    """The command line of the stage in dvc.yaml."""

    prepared: Path
    adapter: Path
    baseline: Path
    answers: Path
    predictions: Path
    metrics: Path
    plots: Path
    published: Path


class CardSettings(NamedTuple):
    """The settings that the card says, or that decide the adapter's answers."""

    repo: str
    evaluate: Evaluate
    split: Split
    adapter: Adapter
    train: Train


def card_facts(settings: CardSettings, path: StageFiles) -> CardFacts:
    """Reads everything that the card says. Raises UserError when a file is missing."""
    from llava_dvc.evaluation.improvement import read_improvements  # imports pandas
    from llava_dvc.publishing.training_frames import drawn_examples, read_training_frames

    metrics, report = read_json(path.metrics), read_json(path.prepared / "report.json")
    return CardFacts(
        repo=settings.repo,
        recipe=evaluated_recipe(Recipe.read(path.adapter), settings.evaluate, metrics),
        report=report,
        frames=read_training_frames(path.prepared),
        examples=drawn_examples(path.prepared, path.predictions, report["data_md5"]),
        baseline=read_json(path.baseline),
        metrics=metrics,
        improvements=read_improvements(path.predictions, path.answers),
        split=settings.split,
        adapter=settings.adapter,
        train=settings.train,
        adapter_sha256=adapter_sha256(path.adapter),
    )
