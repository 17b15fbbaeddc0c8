"""Logs one training and its evaluation as the stages do, with random figures.

    python -m tests.ui.writer SEED LEARNING_RATE NOISE

Name, store and root come from the environment, as in a stage that DVC runs.
"""

import os
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from llava_dvc.config import Config, flatten, load_config
from llava_dvc.evaluation.plots import draw_all
from llava_dvc.metrics import evaluation_metrics
from llava_dvc.recipe import adapter_sha256
from llava_dvc.tracking.run import digest, open_result, open_run
from tests.results import DATA, predictions, write_adapter

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


def train(cfg: Config, adapter: Path, noise: float) -> None:
    rng = np.random.default_rng(cfg.seed)
    sections = set(Config.model_fields) - {"evaluate", "publish"}
    key = digest(cfg.model_dump(include=sections))
    sha256 = adapter_sha256(adapter)
    with open_run("train", cfg, sections, key, {"data_md5": DATA}) as run:
        for step in range(1, STEPS + 1):
            loss = 2 * np.exp(-step / 25) + 0.4 + 0.05 * rng.normal()
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
    found = {**evaluation_metrics(*columns, np.ones(len(frames))), "temperature": 1.25}
    csv = root / "predictions" / "eval.csv"
    csv.parent.mkdir()
    frames.drop(columns=["camera", "nll", "pit"]).to_csv(csv, index=False)
    images = [Image.new("RGB", (64, 48), (90, 110, 40 + 3 * i)) for i in range(len(frames))]
    with open_result(cfg, adapter_sha256(adapter), DATA) as run:
        run.metrics(flatten(found))
        run.dataset("eval", DATA, len(frames))
        run.artifact(csv)
        for picture in sorted(draw_all(frames, found, images, root / "plots")):
            run.picture(picture)
        run.candidate(adapter, csv, {**found, **cfg.evaluate.model_dump()})


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3]))
