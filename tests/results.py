"""Made-up results, logged as the stages log real ones."""

from pathlib import Path

import numpy as np
import pandas as pd
from safetensors.numpy import save_file

from llava_dvc.config import Config
from llava_dvc.metrics import mae
from llava_dvc.recipe import WEIGHTS, adapter_sha256
from llava_dvc.tracking import mlflow_run
from tests.recipes import recipe

DATA = "5f76978a5918f6998b3d3dd7b808d2c3.dir"


def write_adapter(folder: Path, cfg: Config, seed: int) -> Path:
    """A folder with the files of an adapter that registry and tracking look at."""
    folder.mkdir(parents=True)
    weights = np.random.default_rng(seed).normal(size=(64, 8)).astype(np.float32)
    save_file({"base_model.model.lora_A.weight": weights}, folder / WEIGHTS)
    recipe(cfg, decode="mean", max_count=50, versions={}).write(folder)
    return folder


def predictions(seed: int, noise: float, frames: int = 60) -> pd.DataFrame:
    """The same frames for every seed, counted with an error of about `noise` people."""
    walk = np.random.default_rng(0).integers(-3, 4, frames).cumsum()
    count = np.clip(25 + walk, 8, 45)
    luck = np.random.default_rng(seed)
    predicted = np.rint(count + luck.normal(scale=1.25 * noise, size=frames)).clip(0).astype(int)
    return pd.DataFrame(
        {
            "frame": [f"seq_{number:06d}.jpg" for number in range(241, 241 + frames)],
            "camera": None,
            "count": count,
            "predicted": predicted,
            "low": np.maximum(predicted - 4, 0),
            "high": predicted + 4,
            "expected": predicted + 0.25,
            "reply": predicted.astype(str),
            "nll": luck.gamma(2.0, 1.2, frames),
            "pit": luck.uniform(size=frames),
        }
    )


def log_result(
    cfg: Config, folder: Path, seed: int, frames: pd.DataFrame, data: str = DATA
) -> tuple[Path, str]:
    """Train's run and evaluate's result of an adapter with this seed; returns its folder and its
    sha256.
    """
    adapter = folder / f"adapter-{seed}"
    if not adapter.exists():
        write_adapter(adapter, cfg, seed)
    sha256 = adapter_sha256(adapter)
    csv = folder / "eval.csv"
    frames.to_csv(csv, index=False)
    error = mae(frames["count"].to_numpy(), frames["predicted"].to_numpy())
    with mlflow_run.open_run("train", cfg, {"train"}, f"key {seed}", {"data_md5": data}) as run:
        run.tags({"adapter": sha256})
        run.model(adapter, sha256)
    with mlflow_run.open_result(cfg, sha256, data) as run:
        run.metrics({"mae": error})
        run.artifact(csv)
        run.candidate(adapter, csv, {"mae": error, **cfg.evaluate.model_dump(), "temperature": 1.5})
    return adapter, sha256
