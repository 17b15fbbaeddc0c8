"""What an adapter has to beat: answers that need no training, and one that needs no picture."""

from collections.abc import Sequence

import numpy as np
from datasets import Dataset
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from llava_dvc.conversation import question_of
from llava_dvc.counting import Floats, ceiling, predict, quantile

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
