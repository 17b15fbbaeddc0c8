"""Builds published/ from models/adapter/ and its evaluation: a folder to use and to upload."""

import shutil
import sys
from pathlib import Path
from typing import NamedTuple

from llava_dvc.config import Config
from llava_dvc.files import new_folder, read_json
from llava_dvc.publishing import push, reload_check
from llava_dvc.publishing.card import CardFacts
from llava_dvc.publishing.folder import (
    MERGED,
    add_card_and_manifest,
    evaluated_recipe,
    input_digests,
)
from llava_dvc.recipe import WEIGHTS, Recipe, adapter_sha256
from llava_dvc.stage_runner import run_stage
from llava_dvc.terminal.progress import progress, tell
from llava_dvc.tracking.run import open_result


class Paths(NamedTuple):  # the command line of the stage in dvc.yaml
    prepared: Path
    adapter: Path
    baseline: Path
    answers: Path
    predictions: Path
    metrics: Path
    plots: Path
    published: Path


def main(cfg: Config, *paths: Path) -> None:
    path = Paths(*paths)
    facts = card_facts(cfg, path)
    inputs = input_digests(
        facts.recipe.backbone,
        adapter=path.adapter / WEIGHTS,
        predictions=path.predictions,
        evaluate=path.metrics,
        baseline=path.baseline,
    )
    with new_folder(path.published) as folder:
        shutil.copytree(path.adapter, folder, dirs_exist_ok=True)
        facts.recipe.write(folder)
        add_card_and_manifest(folder, facts, plots=path.plots, evaluate=cfg.evaluate, inputs=inputs)
        with progress("publish", 100):
            same = reload_check.require_same_answers(
                folder, path.prepared, path.predictions, cfg.evaluate
            )
        if cfg.publish.merge:
            from llava_dvc.publishing.merged_model import publish_merged

            merged = folder / MERGED
            publish_merged(merged, facts, path.adapter, path.prepared, cfg.evaluate, inputs)
    with open_result(cfg, facts.adapter_sha256, facts.report["data_md5"]) as run:
        for name in ("README.md", "manifest.json"):
            run.artifact(path.published / name, "published")
    tell("publish", f"{path.published}/ gives the same answers in a new process ({same} frames)")
    sys.stdout.write(push.push_after_stage(path.published, cfg.publish))


def card_facts(cfg: Config, path: Paths) -> CardFacts:
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


if __name__ == "__main__":
    run_stage(main)
