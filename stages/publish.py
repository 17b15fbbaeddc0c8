"""models/adapter/ and its evaluation to published/: a folder that can be used, and uploaded, as it
is.
"""

import shutil
import sys
from pathlib import Path

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
from llava_dvc.recipe import Recipe, adapter_sha256
from llava_dvc.stage_runner import run_stage
from llava_dvc.tracking.run import open_result


def main(
    cfg: Config,
    prepared: Path,
    adapter: Path,
    baseline: Path,
    csv: Path,
    metrics: Path,
    plots: Path,
    published: Path,
) -> None:
    figures = read_json(metrics)
    facts = CardFacts(
        repo=cfg.publish.repo,
        recipe=evaluated_recipe(Recipe.read(adapter), cfg.evaluate, figures),
        report=read_json(prepared / "report.json"),
        baseline=read_json(baseline),
        metrics=figures,
        split=cfg.split,
        adapter=cfg.adapter,
        train=cfg.train,
        adapter_sha256=adapter_sha256(adapter),
    )
    inputs = input_digests(
        facts.recipe.backbone,
        adapter=adapter / "adapter_model.safetensors",
        predictions=csv,
        evaluate=metrics,
        baseline=baseline,
    )
    with new_folder(published) as folder:
        shutil.copytree(adapter, folder, dirs_exist_ok=True)
        facts.recipe.write(folder)
        add_card_and_manifest(folder, facts, plots=plots, evaluate=cfg.evaluate, inputs=inputs)
        reload_check.require_same_answers(folder, prepared, csv, cfg.evaluate)
        if cfg.publish.merge:
            from llava_dvc.publishing.merged_model import publish_merged

            publish_merged(
                folder / MERGED,
                facts,
                adapter,
                prepared=prepared,
                evaluate=cfg.evaluate,
                inputs=inputs,
            )
    with open_result(cfg, facts.adapter_sha256, facts.report["data_md5"]) as run:
        for name in ("README.md", "manifest.json"):
            run.artifact(published / name, "published")
    sys.stdout.write(push.push_after_stage(published, cfg.publish))


if __name__ == "__main__":
    run_stage(main)
