"""Builds published/ from models/adapter/ and its evaluation: a folder to use and to upload."""

import shutil
import sys
from pathlib import Path

from llava_dvc.config import Config
from llava_dvc.files import new_folder
from llava_dvc.publishing.folder import MERGED, add_card_and_manifest, input_digests
from llava_dvc.publishing.push import push_after_stage
from llava_dvc.publishing.reload_check import require_same_answers
from llava_dvc.publishing.stage_files import CardSettings, StageFiles, card_facts
from llava_dvc.recipe import WEIGHTS
from llava_dvc.stage_runner import run_stage
from llava_dvc.terminal.progress import progress, tell
from llava_dvc.tracking.run import open_result


def main(cfg: Config, *paths: Path) -> None:
    path = StageFiles(*paths)
    settings = CardSettings(cfg.publish.repo, cfg.evaluate, cfg.split, cfg.adapter, cfg.train)
    facts = card_facts(settings, path)
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
            same = require_same_answers(folder, path.prepared, path.predictions, cfg.evaluate)
        if cfg.publish.merge:
            from llava_dvc.publishing.merged_model import publish_merged

            merged = folder / MERGED
            publish_merged(merged, facts, path.adapter, path.prepared, cfg.evaluate, inputs)
    with open_result(cfg, facts.adapter_sha256, facts.report["data_md5"]) as run:
        for name in ("README.md", "manifest.json"):
            run.artifact(path.published / name, "published")
    tell("publish", f"{path.published}/ gives the same answers in a new process ({same} frames)")
    sys.stdout.write(push_after_stage(path.published, cfg.publish))


if __name__ == "__main__":
    run_stage(main)
