"""models/adapter/ on the held-out frames: predictions, metrics/evaluate.json and plots/."""

import sys
from pathlib import Path

from llava_dvc.checks.hardware import require_hardware
from llava_dvc.config import Config, flatten
from llava_dvc.dataset import load_split
from llava_dvc.evaluation.merged_weights import merge_and_compile
from llava_dvc.evaluation.plots import draw_all
from llava_dvc.evaluation.predictions import (
    INTERNAL,
    comparison_table,
    prediction_table,
    score_predictions,
)
from llava_dvc.files import new_file, new_folder, read_json, write_json
from llava_dvc.model.adapter import load_adapter
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
) -> None:
    rows = load_split(prepared, "eval")
    require_hardware(Recipe.read(adapter).backbone)
    model, encoder, recipe = load_adapter(adapter)
    if cfg.evaluate.compile:
        merge_and_compile(model)
    frames = prediction_table(model, encoder, rows, cfg.evaluate, recipe.temperature)
    found = score_predictions(frames, recipe.temperature)
    with new_file(csv) as file:
        frames.drop(columns=INTERNAL).to_csv(file, index=False)
    write_json(metrics, found)
    with new_folder(plots) as folder:
        draw_all(frames, found, rows["image"], folder)
    rivals = read_json(baseline)
    sys.stdout.write(comparison_table(found, rivals))

    data_md5 = read_json(prepared / "report.json")["data_md5"]
    with open_result(cfg, adapter_sha256(adapter), data_md5) as run:
        run.metrics(flatten(found) | flatten(rivals))
        run.dataset("eval", data_md5, len(rows))
        run.artifact(csv)
        for picture in sorted(plots.glob("*.png")):
            run.picture(picture)
        run.candidate(adapter, csv, {**found, **cfg.evaluate.model_dump()})


if __name__ == "__main__":
    run_stage(main)
