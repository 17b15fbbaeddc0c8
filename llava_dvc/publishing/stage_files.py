"""The files that publish reads and writes, and what the card says of them."""

from pathlib import Path
from typing import NamedTuple

from llava_dvc.config import Config
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


def card_facts(cfg: Config, path: StageFiles) -> CardFacts:
    """Reads everything that the card says. Raises UserError when a file is missing."""
    from llava_dvc.evaluation.improvement import read_improvements  # imports pandas
    from llava_dvc.publishing.training_frames import drawn_examples, read_training_frames

    metrics, report = read_json(path.metrics), read_json(path.prepared / "report.json")
    return CardFacts(
        repo=cfg.publish.repo,
        recipe=evaluated_recipe(Recipe.read(path.adapter), cfg.evaluate, metrics),
        report=report,
        frames=read_training_frames(path.prepared),
        examples=drawn_examples(path.prepared, path.predictions, report["data_md5"]),
        baseline=read_json(path.baseline),
        metrics=metrics,
        improvements=read_improvements(path.predictions, path.answers),
        split=cfg.split,
        adapter=cfg.adapter,
        train=cfg.train,
        adapter_sha256=adapter_sha256(path.adapter),
    )
