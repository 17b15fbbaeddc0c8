"""Made-up results, logged in the same way as by the stages."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import save_file

from llava_dvc.config import Config
from llava_dvc.metrics import mae
from llava_dvc.recipe import WEIGHTS, adapter_sha256
from llava_dvc.tracking.run import open_result, open_run
from tests.recipes import recipe

DATA = "5f76978a5918f6998b3d3dd7b808d2c3.dir"


def write_adapter(folder: Path, cfg: Config, seed: int) -> Path:
    """Writes the files of an adapter that tracking reads: weights and recipe."""
    folder.mkdir(parents=True)
    weights = np.random.default_rng(seed).normal(size=(64, 8)).astype(np.float32)
    save_file({"base_model.model.lora_A.weight": weights}, folder / WEIGHTS)
    recipe(cfg, decode="mean", max_count=50, versions={}).write(folder)
    return folder


def predictions(seed: int, noise: float, frames: int = 60) -> pd.DataFrame:
    """Predictions with errors of about `noise` people. The labels do not depend on `seed`."""
    walk = np.random.default_rng(0).integers(-3, 4, frames).cumsum()
    count = np.clip(25 + walk, 8, 45)
    rng = np.random.default_rng(seed)
    predicted = np.rint(count + rng.normal(scale=1.25 * noise, size=frames)).clip(0).astype(int)
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
            "nll": rng.gamma(2.0, 1.2, frames),
            "pit": rng.uniform(size=frames),
        }
    )


def log_result(
    cfg: Config, folder: Path, seed: int, frames: pd.DataFrame, data: str = DATA
) -> tuple[Path, str]:
    """Logs a training and an evaluation of an adapter with this seed, as the stages do.

    Returns the adapter's folder and sha256.
    """
    adapter = folder / f"adapter-{seed}"
    if not adapter.exists():
        write_adapter(adapter, cfg, seed)
    sha256 = adapter_sha256(adapter)
    csv = folder / "eval.csv"
    frames.to_csv(csv, index=False)
    error = mae(frames["count"].to_numpy(), frames["predicted"].to_numpy())
    with open_run("train", cfg, {"train"}, f"key {seed}", {"data_md5": data}) as run:
        run.tags({"adapter": sha256})
        run.model(adapter, sha256)
    with open_result(cfg, sha256, data) as run:
        run.metrics({"mae": error})
        run.artifact(csv)
        run.candidate(adapter, csv, {"mae": error, **cfg.evaluate.model_dump(), "temperature": 1.5})
    return adapter, sha256


def record_data(folder: Path, monkeypatch: pytest.MonkeyPatch, md5: str) -> None:
    """Goes to a repository in whose data/ DVC has recorded this md5."""
    (folder / "dvc.yaml").write_text("vars: [{path: {data: data}}]\n")
    (folder / "data.dvc").write_text(f"outs:\n- md5: {md5}\n  path: data\n")
    monkeypatch.chdir(folder)
