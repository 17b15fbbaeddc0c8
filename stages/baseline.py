"""Scores the baselines that the adapter has to beat: metrics and answers frame by frame."""

from pathlib import Path

import pandas as pd

from llava_dvc.checks.hardware import require_hardware
from llava_dvc.config import Config, flatten
from llava_dvc.dataset import load_split
from llava_dvc.evaluation.baselines import ridge_features, train_mean, zero_shot
from llava_dvc.files import csv_name, new_file, read_json, write_json
from llava_dvc.metrics import baseline_metrics
from llava_dvc.model.backbone import backbone_encoder, load_backbone
from llava_dvc.stage_runner import run_stage
from llava_dvc.terminal.progress import progress, tell
from llava_dvc.tracking.run import digest, open_run


def main(cfg: Config, prepared: Path, metrics: Path, answers_csv: Path) -> None:
    train, val, rows = (load_split(prepared, name) for name in ("train", "val", "eval"))
    report = read_json(prepared / "report.json")
    require_hardware(cfg.backbone)
    model = load_backbone(cfg.backbone)
    encoder = backbone_encoder(cfg.backbone, cfg.image)
    counts = rows["count"][:]
    seen = sum(len(encoder.pictures(split["image"])) for split in (rows, train, val, rows))
    with progress("baseline", seen):
        answers = {
            "train_mean": train_mean(train["count"], len(rows)),
            "zero_shot": zero_shot(model, encoder, train, rows),
            "ridge_features": ridge_features(model, encoder, train, val, rows),
        }
    scored = {name: baseline_metrics(counts, answer) for name, answer in answers.items()}
    order = ("train_mean", "blind_interpolation", "zero_shot", "ridge_features")
    scored["blind_interpolation"] = report["blind_interpolation"]
    scores = {name: scored[name] for name in order}
    write_json(metrics, scores)
    table = pd.DataFrame(
        {"frame": list(map(csv_name, rows["frame"][:])), "count": counts, **answers}
    )
    with new_file(answers_csv) as file:
        table.round(6).to_csv(file, index=False)
    tell("baseline", f"MAE {maes(scores)}")

    sections = {"image", "backbone"}
    key = digest(report, cfg.model_dump(include=sections))
    with open_run("baseline", cfg, sections, key, {"data_md5": report["data_md5"]}) as run:
        run.metrics(flatten(scores))


def maes(scores: dict[str, dict[str, float]]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {row['mae']:.2f}" for name, row in scores.items())


if __name__ == "__main__":
    run_stage(main)
