"""Builds a small published folder from invented figures, without a model."""

import shutil
from pathlib import Path

import pandas as pd

from llava_dvc.config import Config
from llava_dvc.evaluation.plots import draw_all
from llava_dvc.evaluation.predictions import score_predictions
from llava_dvc.publishing.card import CardFacts
from llava_dvc.publishing.folder import add_card_and_manifest, evaluated_recipe, input_digests
from llava_dvc.publishing.training_frames import TrainingFrames
from llava_dvc.recipe import WEIGHTS, Recipe, adapter_sha256
from tests.conftest import frame
from tests.recipes import recipe

BASELINE = {
    "train_mean": {"mae": 8.0, "rmse": 9.0, "accuracy": 0.05},
    "blind_interpolation": {"mae": 5.0, "rmse": 6.0, "accuracy": 0.1},
    "zero_shot": {"mae": 4.0, "rmse": 5.0, "accuracy": 0.1},
    "ridge_features": {"mae": 3.0, "rmse": 4.0, "accuracy": 0.2},
}
COUNT = pd.Series([3, 12, 7, 40, 31, 8])
FRAMES = pd.DataFrame(
    {
        "frame": [f"seq_{i:06d}.jpg" for i in range(6)],
        "count": COUNT,
        "camera": None,
        "points": None,
        "predicted": [3, 13, 5, 43, 31, 8],
        "low": COUNT - 3,
        "high": COUNT + 3,
        "expected": COUNT + 0.25,
        "reply": ["3", "13", "5", "43", "31", "many"],
        "nll": 1.5,
        "pit": [0.5, 0.2, 0.9, 0.1, 0.5, 0.6],
    }
)
FIGURES = score_predictions(FRAMES, 1.5)


def write_adapter(folder: Path, cfg: Config) -> Path:
    folder.mkdir(parents=True)
    (folder / WEIGHTS).write_bytes(b"weights")
    recipe(cfg, question="How many?", max_count=80).write(folder)
    return folder


def facts(cfg: Config, adapter: Path) -> CardFacts:
    return CardFacts(
        repo=cfg.publish.repo,
        recipe=evaluated_recipe(Recipe.read(adapter), cfg.evaluate, FIGURES),
        report={"data_md5": "abc.dir", "splits": {"train": {"frames": 20, "mean": 15.0}}},
        frames=TrainingFrames(("640x480",), 3, 40, have_points=True),
        baseline=BASELINE,
        metrics=FIGURES,
        split=cfg.split,
        adapter=cfg.adapter,
        train=cfg.train,
        adapter_sha256=adapter_sha256(adapter),
    )


def publish(cfg: Config, work: Path, name: str = "published", **changed: object) -> Path:
    """Builds `work`/`name`. The first call also makes the adapter and the plots, in `work`."""
    adapter, plots, csv = work / "adapter", work / "plots", work / "eval.csv"
    if not adapter.exists():
        write_adapter(adapter, cfg)
        FRAMES.to_csv(csv, index=False)
        draw_all(FRAMES, FIGURES, [frame(seed) for seed in range(len(FRAMES))], plots)
    known = facts(cfg, adapter)
    known = CardFacts(**{**vars(known), **changed})
    folder = work / name
    shutil.copytree(adapter, folder)
    known.recipe.write(folder)
    inputs = input_digests(known.recipe.backbone, predictions=csv)
    add_card_and_manifest(folder, known, plots=plots, evaluate=cfg.evaluate, inputs=inputs)
    return folder
