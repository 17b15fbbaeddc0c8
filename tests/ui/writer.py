"""Logs one training and its evaluation as the stages do; the figures are drawn by lot.

    python -m tests.ui.writer SEED LEARNING_RATE NOISE

The name, the store and the root come from the environment, as in a stage that DVC runs.
"""

import os
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from safetensors.numpy import save_file

from llava_dvc import tracking
from llava_dvc.config import Config, flatten, load_config
from llava_dvc.metrics import evaluation
from llava_dvc.plots import draw_all
from llava_dvc.recipe import WEIGHTS, Recipe, adapter_sha256

DATA = "5f76978a5918f6998b3d3dd7b808d2c3.dir"
EPOCHS, STEPS = 3, 60
PRESET = Path(__file__).parents[2] / "presets" / "tiny.yaml"


def main(seed: int, learning_rate: float, noise: float) -> None:
    root = Path(os.environ["DVC_ROOT"])
    values = load_config(PRESET).model_dump()
    values["train"] |= {"learning_rate": learning_rate, "epochs": EPOCHS}
    cfg = Config.model_validate(values | {"seed": seed})
    adapter = write_adapter(root / "models" / "adapter", cfg, seed)
    train(cfg, adapter, noise)
    evaluate(cfg, adapter, root, noise)


def write_adapter(folder: Path, cfg: Config, seed: int) -> Path:
    folder.mkdir(parents=True)
    weights = np.random.default_rng(seed).normal(size=(64, 8)).astype(np.float32)
    save_file({"base_model.model.lora_A.weight": weights}, folder / WEIGHTS)
    Recipe(
        backbone=cfg.backbone, image=cfg.image, question="How many people?", decode="mean",
        max_count=50, temperature=1.0, versions={},
    ).write(folder)  # fmt: skip
    return folder


def train(cfg: Config, adapter: Path, noise: float) -> None:
    luck = np.random.default_rng(cfg.seed)
    sections = set(Config.model_fields) - {"evaluate", "publish"}
    key = tracking.digest(cfg.model_dump(include=sections))
    sha256 = adapter_sha256(adapter)
    with tracking.open_run("train", cfg, sections, key, {"data_md5": DATA}) as run:
        for step in range(1, STEPS + 1):
            loss = 2 * np.exp(-step / 25) + 0.4 + 0.05 * luck.normal()
            rate = cfg.train.learning_rate * np.cos(step / STEPS * np.pi / 2)
            run.step({"train/loss": loss, "train/learning_rate": rate}, step)
            if step % (STEPS // EPOCHS) == 0:
                run.step({"val/mae": noise + 6 * np.exp(-step / 15)}, step)
        run.tags({"adapter": sha256})
        run.dataset("train", DATA, 210)
        run.model(adapter, sha256)


def evaluate(cfg: Config, adapter: Path, root: Path, noise: float) -> None:
    frames = predictions(cfg.seed, noise)
    columns = (frames[name] for name in ("count", "predicted", "low", "high", "nll"))
    found = {**evaluation(*columns, np.ones(len(frames))), "temperature": 1.25}
    csv = root / "predictions" / "eval.csv"
    csv.parent.mkdir()
    frames.drop(columns=["camera", "nll", "pit"]).to_csv(csv, index=False)
    images = [Image.new("RGB", (64, 48), (90, 110, 40 + 3 * i)) for i in range(len(frames))]
    with tracking.open_result(cfg, adapter_sha256(adapter), DATA) as run:
        run.metrics(flatten(found))
        run.dataset("eval", DATA, len(frames))
        run.artifact(csv)
        for picture in sorted(draw_all(frames, found, images, root / "plots")):
            run.picture(picture)
        run.candidate(adapter, csv, {**found, **cfg.evaluate.model_dump()})


def predictions(seed: int, noise: float) -> pd.DataFrame:
    """Sixty frames, the same for every seed, counted with an error of about `noise` people."""
    walk = np.random.default_rng(0).integers(-3, 4, 60).cumsum()
    count = np.clip(25 + walk, 8, 45)
    luck = np.random.default_rng(seed)
    predicted = np.clip(np.rint(count + luck.normal(scale=1.25 * noise, size=60)), 0, 99).astype(
        int
    )
    return pd.DataFrame(
        {
            "frame": [f"seq_{number:06d}.jpg" for number in range(241, 301)],
            "camera": None,
            "count": count,
            "predicted": predicted,
            "low": np.maximum(predicted - 4, 0),
            "high": predicted + 4,
            "expected": predicted + 0.25,
            "reply": predicted.astype(str),
            "nll": luck.gamma(2.0, 1.2, 60),
            "pit": luck.uniform(size=60),
        }
    )


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3]))
