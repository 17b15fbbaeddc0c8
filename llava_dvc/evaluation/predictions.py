"""An adapter's answers on held-out frames: one row per frame, every metric, and a table to read."""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
from datasets import Dataset

from llava_dvc import config, errors
from llava_dvc.conversation import parse_count, question_text
from llava_dvc.evaluation.decoding import decode_answers, decode_smoothed
from llava_dvc.evaluation.improvement import Improvement, verdict
from llava_dvc.files import csv_name
from llava_dvc.metrics import evaluation_metrics, metrics_by_camera, smoothed_metrics
from llava_dvc.model.counting import Answers, CountPredictor, Counts
from llava_dvc.model.encoder import Encoder
from llava_dvc.model.smoothing import find_sequences, smooth_sequences
from llava_dvc.recipe import Smoothing

SMOOTHED = ["smoothed", "smoothed_low", "smoothed_high"]
INTERNAL = ["camera", "nll", "pit", *SMOOTHED]  # columns that predictions/eval.csv does not have


def answer_split(model: Any, encoder: Encoder, rows: Dataset, evaluate: config.Evaluate) -> Answers:
    """The model's answers for a split's frames."""
    question = question_text(rows[0]["messages"])
    predictor = CountPredictor(model, encoder, question, evaluate.max_count, flip=evaluate.flip)
    return predictor.predict(rows["image"], evaluate.batch_size)


def prediction_table(
    model: Any,
    encoder: Encoder,
    rows: Dataset,
    evaluate: config.Evaluate,
    temperature: float,
    smoothing: Smoothing | None = None,
) -> pd.DataFrame:
    """One row per frame, in the split's order.

    Columns: frame, camera, count, predicted, low, high, expected, reply; `nll`, -log P(count) in
    nats; and `pit`, the mass below the label plus half of the mass at it. `pit` is uniform over
    0..1 if the distribution is right. With `smoothing` also SMOOTHED: count and interval, given all
    frames of the sequence. Raises UserError when a label is above `evaluate.max_count`.
    """
    counts = np.array(rows["count"][:])
    if counts.max() > evaluate.max_count:
        fullest = rows[int(counts.argmax())]["frame"]
        raise errors.count_above_max(evaluate.max_count, fullest, counts.max())
    answers = answer_split(model, encoder, rows, evaluate)
    decoded = decode_answers(answers, temperature, evaluate.decode)
    mass, each = decoded.probabilities, np.arange(len(counts))
    right = mass[each, counts]
    return pd.DataFrame(
        {
            "frame": list(map(csv_name, rows["frame"][:])),
            "camera": rows["camera"][:],
            "count": counts,
            "predicted": decoded.count,
            "low": decoded.low,
            "high": decoded.high,
            "expected": decoded.expected.round(4),
            "reply": decoded.replies,
            "nll": -np.log(np.maximum(right, np.finfo(float).tiny)),
            "pit": mass.cumsum(axis=1)[each, counts] - right / 2,
            **(smoothed_columns(answers, rows, smoothing, evaluate.decode) if smoothing else {}),
        }
    )


def smoothed_columns(
    answers: Answers, rows: Dataset, smoothing: Smoothing, how: str
) -> dict[str, Counts]:
    """The columns SMOOTHED."""
    sequences = find_sequences(rows["frame"][:], rows["camera"][:])
    mass = smooth_sequences(answers.probabilities, sequences, smoothing)
    decoded = decode_smoothed(replace(answers, probabilities=mass), how)
    return dict(zip(SMOOTHED, (decoded.count, decoded.low, decoded.high), strict=True))


def score_predictions(frames: pd.DataFrame, temperature: float) -> dict[str, Any]:
    """Everything in metrics/evaluate.json. The smoothed figures are there if the columns are."""
    scores = evaluation_metrics(
        frames["count"],
        frames["predicted"],
        frames["low"],
        frames["high"],
        frames["nll"],
        [parse_count(reply) is not None for reply in frames["reply"]],
    )
    if frames["camera"].notna().all():
        scores["cameras"] = metrics_by_camera(
            frames["count"], frames["predicted"], frames["camera"].tolist()
        )
    if set(SMOOTHED) <= set(frames.columns):
        scores |= smoothed_metrics(frames["count"], *(frames[name] for name in SMOOTHED))
    return {**scores, "temperature": temperature}


def evaluation_summary(scores: Mapping[str, Any]) -> str:
    """`MAE 2.02 people (95 %: 1.42 to 2.63) on 60 frames`."""
    low, high = scores["mae_ci_low"], scores["mae_ci_high"]
    interval = f"(95 %: {low:.2f} to {high:.2f})"
    return f"MAE {scores['mae']:.2f} people {interval} on {scores['frames']} frames"


def comparison_table(
    scores: dict[str, Any],
    baselines: dict[str, dict[str, float]],
    improvements: Mapping[str, Improvement] = MappingProxyType({}),
) -> str:
    """The adapter beside its baselines, and what that means in a sentence."""
    lines = [f"{'':22}{'MAE':>8}{'RMSE':>8}{'exact':>8}"]
    for name, row in {**baselines, "adapter": scores}.items():
        lines.append(f"{name:22}{row['mae']:8.2f}{row['rmse']:8.2f}{row['accuracy']:8.1%}")
    rivals = {name: row["mae"] for name, row in baselines.items()}
    lines.append(verdict(scores["mae"], rivals, improvements))
    return "\n".join(lines) + "\n"
