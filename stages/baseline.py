"""prepared/ and the backbone to metrics/baseline.json: what the adapter has to beat."""

from pathlib import Path

from llava_dvc.checks.hardware import require_hardware
from llava_dvc.config import Config, flatten
from llava_dvc.dataset import load_split
from llava_dvc.evaluation.baselines import ridge_features, train_mean, zero_shot
from llava_dvc.files import read_json, write_json
from llava_dvc.metrics import summary
from llava_dvc.model.backbone import backbone_encoder, load_backbone
from llava_dvc.stage_runner import run_stage
from llava_dvc.tracking.mlflow_run import digest, open_run


def main(cfg: Config, prepared: Path, metrics: Path) -> None:
    train, val, rows = (load_split(prepared, name) for name in ("train", "val", "eval"))
    found = read_json(prepared / "report.json")
    require_hardware(cfg.backbone)
    model = load_backbone(cfg.backbone)
    encoder = backbone_encoder(cfg.backbone, cfg.image)
    counts = rows["count"][:]
    scores = {
        "train_mean": summary(counts, train_mean(train["count"], len(rows))),
        "blind_interpolation": found["blind_interpolation"],
        "zero_shot": summary(counts, zero_shot(model, encoder, train, rows)),
        "ridge_features": summary(counts, ridge_features(model, encoder, train, val, rows)),
    }
    write_json(metrics, scores)

    sections = {"image", "backbone"}
    key = digest(found, cfg.model_dump(include=sections))
    with open_run("baseline", cfg, sections, key, {"data_md5": found["data_md5"]}) as run:
        run.metrics(flatten(scores))


if __name__ == "__main__":
    run_stage(main)
