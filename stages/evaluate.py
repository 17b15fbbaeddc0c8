"""Counts the held-out frames: predictions, metrics/evaluate.json and plots/."""

import sys
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from llava_dvc.checks.loading import load_checked_adapter
from llava_dvc.config import Config, flatten
from llava_dvc.dataset import load_split
from llava_dvc.evaluation.improvement import read_improvements
from llava_dvc.evaluation.merged_weights import merge_and_compile
from llava_dvc.evaluation.plots import draw_all
from llava_dvc.evaluation.predictions import (
    INTERNAL,
    comparison_table,
    evaluation_summary,
    prediction_table,
    score_predictions,
)
from llava_dvc.files import new_file, new_folder, read_json, write_json
from llava_dvc.recipe import adapter_sha256
from llava_dvc.stage_runner import run_stage
from llava_dvc.terminal.progress import progress, tell
from llava_dvc.tracking.run import open_result


class Paths(NamedTuple):
    """The command line of the stage in dvc.yaml."""

    prepared: Path
    adapter: Path
    baseline: Path
    answers: Path
    predictions: Path
    metrics: Path
    plots: Path


def main(cfg: Config, *paths: Path) -> None:
    path = Paths(*paths)
    rows = load_split(path.prepared, "eval")
    model, encoder, recipe = load_checked_adapter(path.adapter)
    if cfg.evaluate.compile:
        merge_and_compile(model)
    with progress("evaluate", len(encoder.pictures(rows["image"]))):
        frames = prediction_table(
            model, encoder, rows, cfg.evaluate, recipe.temperature, recipe.smoothing
        )
    scores = score_predictions(frames, recipe.temperature)
    with new_file(path.predictions) as file:
        frames.drop(columns=INTERNAL, errors="ignore").to_csv(file, index=False)
    write_json(path.metrics, scores)
    ridge = pd.read_csv(path.answers)["ridge_features"]
    with new_folder(path.plots) as folder:
        draw_all(frames, scores, rows["image"], folder, ridge)
    baselines = read_json(path.baseline)
    improvements = read_improvements(path.predictions, path.answers)
    tell("evaluate", evaluation_summary(scores))
    sys.stdout.write(comparison_table(scores, baselines, improvements))

    data_md5 = read_json(path.prepared / "report.json")["data_md5"]
    with open_result(cfg, adapter_sha256(path.adapter), data_md5) as run:
        run.metrics(flatten(scores) | flatten(baselines))
        run.dataset("eval", data_md5, len(rows))
        run.artifact(path.predictions)
        for picture in sorted(path.plots.glob("*.png")):
            run.picture(picture)
        run.candidate(path.adapter, path.predictions, {**scores, **cfg.evaluate.model_dump()})


if __name__ == "__main__":
    run_stage(main)
