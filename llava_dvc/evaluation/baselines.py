"""What an adapter has to beat: answers without training, and one from frozen features."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from sklearn.linear_model import Ridge
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from llava_dvc.conversation import question_text
from llava_dvc.model.counting import CountPredictor, Floats, default_max_count, quantile
from llava_dvc.model.encoder import Encoder
from llava_dvc.terminal.progress import advance

REGIONS = 4  # the features are averaged over REGIONS x REGIONS parts of the frame
STRENGTHS = 10.0 ** np.arange(0, 6.5, 0.5)

BATCH = 8  # frames at once: every machine that can train the presets has room for it


def train_mean(counts: Sequence[int], frames: int) -> Floats:
    """The mean training label for each of `frames` frames."""
    return np.full(frames, np.mean(counts))


def zero_shot(model: Any, encoder: Encoder, train: Dataset, rows: Dataset) -> Floats:
    """The untuned backbone's counts: the median of its distribution.

    Considers counts up to twice the largest training label. No evaluation setting is needed.
    """
    question = question_text(rows[0]["messages"])
    predictor = CountPredictor(model, encoder, question, default_max_count(train["count"]))
    probabilities = predictor.predict(rows["image"], BATCH).probabilities
    return quantile(probabilities, 0.5).astype(np.float64)


def ridge_features(
    model: Any, encoder: Encoder, train: Dataset, val: Dataset, rows: Dataset
) -> Floats:
    """Ridge regression on the frozen vision tower's features. It needs no language model.

    Fits on `train`. Selects the strength with the least absolute error on `val`.
    """
    of_train, of_val, of_rows = (tower_features(model, encoder, split)
                                 for split in (train, val, rows))  # fmt: skip
    counts, watched = np.array(train["count"]), np.array(val["count"])

    def error(fitted: Pipeline) -> float:
        return float(np.abs(fitted.predict(of_val) - watched).mean())

    fits = [
        make_pipeline(StandardScaler(), Ridge(strength)).fit(of_train, counts)
        for strength in STRENGTHS
    ]
    best: Floats = min(fits, key=error).predict(of_rows)
    return best.clip(min=0)


@torch.inference_mode()
def tower_features(model: Any, encoder: Encoder, rows: Dataset) -> Floats:
    """The patches that LLaVA reads, averaged over REGIONS x REGIONS parts of each frame or tile.

    Shape `(frames, tiles * REGIONS**2 * width)`.
    """
    pictures, features = encoder.pictures(rows["image"]), []
    for start in range(0, len(pictures), BATCH):
        images = pictures[start : start + BATCH]
        pixels = encoder.pixels(images).to(model.device, model.dtype)
        states = model.model.vision_tower(pixels, output_hidden_states=True).hidden_states
        patches = states[model.config.vision_feature_layer][:, 1:]
        side = round(patches.shape[1] ** 0.5)
        grid = patches.transpose(1, 2).unflatten(2, (side, side))
        regions = torch.nn.functional.adaptive_avg_pool2d(grid.float(), REGIONS)
        features.append(regions.flatten(1).cpu().numpy())
        advance(len(images))
    return np.concatenate(features).astype(np.float64).reshape(len(rows), -1)
