"""What an adapter has to beat: answers that need no training, and one that needs no picture."""

from collections.abc import Sequence

import numpy as np
import torch
from datasets import Dataset
from sklearn.linear_model import Ridge
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from llava_dvc.model.chat_template import question_of
from llava_dvc.model.counting import Floats, ceiling, predict, quantile

REGIONS = 4  # the features are averaged over so many by so many parts of the frame
STRENGTHS = 10.0 ** np.arange(0, 6.5, 0.5)

BATCH = 8  # frames at once: what any machine that can train the presets has room for


def train_mean(counts: Sequence[int], frames: int) -> Floats:
    """The mean training label for each of `frames` frames."""
    return np.full(frames, np.mean(counts))


def zero_shot(
    model: LlavaForConditionalGeneration, processor: LlavaProcessor, train: Dataset, rows: Dataset
) -> Floats:
    """The untuned backbone's counts, by the median of its distribution.

    Counts up to twice the largest training label are considered, so that no evaluation setting is
    needed.
    """
    question = question_of(rows[0]["messages"])
    answers = predict(model, processor, rows["image"], question, ceiling(train["count"]), BATCH)
    return quantile(answers.probabilities, 0.5).astype(np.float64)


def ridge_features(
    model: LlavaForConditionalGeneration,
    processor: LlavaProcessor,
    train: Dataset,
    val: Dataset,
    rows: Dataset,
) -> Floats:
    """Ridge regression on what the frozen vision tower sees: the rival that needs no language.

    Fitted on `train`; its strength is the one with the least absolute error on `val`.
    """
    seen = {name: features(model, processor, split) for name, split in
            (("train", train), ("val", val), ("rows", rows))}  # fmt: skip
    counts, watched = np.array(train["count"]), np.array(val["count"])

    def error(fitted: Pipeline) -> float:
        return float(np.abs(fitted.predict(seen["val"]) - watched).mean())

    fits = [
        make_pipeline(StandardScaler(), Ridge(strength)).fit(seen["train"], counts)
        for strength in STRENGTHS
    ]
    best: Floats = min(fits, key=error).predict(seen["rows"])
    return best.clip(min=0)


@torch.inference_mode()
def features(
    model: LlavaForConditionalGeneration, processor: LlavaProcessor, rows: Dataset
) -> Floats:
    """The patches that LLaVA reads, averaged over REGIONS x REGIONS parts of each frame:
    `(frames, REGIONS**2 * width)`.
    """
    found = []
    for start in range(0, len(rows), BATCH):
        images = rows[start : start + BATCH]["image"]
        pixels = processor.image_processor(images, return_tensors="pt")["pixel_values"]
        pixels = pixels.to(model.device, model.dtype)
        states = model.model.vision_tower(pixels, output_hidden_states=True).hidden_states
        patches = states[model.config.vision_feature_layer][:, 1:]
        side = round(patches.shape[1] ** 0.5)
        grid = patches.transpose(1, 2).unflatten(2, (side, side))
        regions = torch.nn.functional.adaptive_avg_pool2d(grid.float(), REGIONS)
        found.append(regions.flatten(1).cpu().numpy())
    return np.concatenate(found).astype(np.float64)
