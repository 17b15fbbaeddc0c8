"""An adapter's answers on held-out frames: one row a frame, every metric, and a table to read."""

from typing import Any

import numpy as np
import pandas as pd
from datasets import Dataset
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from llava_dvc import config
from llava_dvc.conversation import parse_count
from llava_dvc.errors import UserError
from llava_dvc.evaluation.decoding import expected, read
from llava_dvc.metrics import by_camera, evaluation
from llava_dvc.model.chat_template import question_of
from llava_dvc.model.counting import TAIL, Answers, predict, quantile

INTERNAL = ["camera", "nll", "pit"]  # columns that predictions/eval.csv goes without


def predictions(
    model: LlavaForConditionalGeneration,
    processor: LlavaProcessor,
    rows: Dataset,
    evaluate: config.Evaluate,
    temperature: float,
) -> pd.DataFrame:
    """One row a frame, in the split's order: frame, camera, count, predicted, low, high, expected,
    reply; nll, -log P(count); and pit, the mass below the label and half of that at it, which is
    spread evenly over 0..1 where the distribution is right.
    """
    counts = np.array(rows["count"][:])
    if counts.max() > evaluate.max_count:
        fullest = rows[int(counts.argmax())]["frame"]
        raise UserError(
            f"evaluate.max_count: is {evaluate.max_count}, but {fullest} has {counts.max()} "
            "people; raise it"
        )
    found = answers(model, processor, rows, evaluate)
    mass, read_counts = read(found, temperature, evaluate.decode)
    right = mass[np.arange(len(counts)), counts]
    return pd.DataFrame(
        {
            "frame": rows["frame"][:],
            "camera": rows["camera"][:],
            "count": counts,
            "predicted": read_counts,
            "low": quantile(mass, TAIL),
            "high": quantile(mass, 1 - TAIL),
            "expected": expected(mass).round(4),
            "reply": found.replies,
            "nll": -np.log(np.maximum(right, np.finfo(float).tiny)),
            "pit": mass.cumsum(axis=1)[np.arange(len(counts)), counts] - right / 2,
        }
    )


def answers(
    model: LlavaForConditionalGeneration,
    processor: LlavaProcessor,
    rows: Dataset,
    evaluate: config.Evaluate,
) -> Answers:
    """What the model says of a split's frames, as `evaluate` asks."""
    question = question_of(rows[0]["messages"])
    return predict(
        model, processor, rows["image"], question, evaluate.max_count, evaluate.batch_size
    )


def scores(frames: pd.DataFrame, temperature: float) -> dict[str, Any]:
    """Everything in metrics/evaluate.json."""
    found = evaluation(
        frames["count"],
        frames["predicted"],
        frames["low"],
        frames["high"],
        frames["nll"],
        [parse_count(reply) is not None for reply in frames["reply"]],
    )
    if frames["camera"].notna().all():
        found["cameras"] = by_camera(
            frames["count"], frames["predicted"], frames["camera"].tolist()
        )
    return {**found, "temperature": temperature}


def table(found: dict[str, Any], baselines: dict[str, dict[str, float]]) -> str:
    """The adapter beside everything it has to beat, and what that means in a sentence."""
    lines = [f"{'':22}{'MAE':>8}{'RMSE':>8}{'exact':>8}"]
    for name, row in {**baselines, "adapter": found}.items():
        lines.append(f"{name:22}{row['mae']:8.2f}{row['rmse']:8.2f}{row['accuracy']:8.1%}")
    lines.append(verdict(found["mae"], {name: row["mae"] for name, row in baselines.items()}))
    return "\n".join(lines) + "\n"


def verdict(mae: float, rivals: dict[str, float]) -> str:
    """What the table says, in a sentence. Interpolation looks at no picture: beating it only shows
    a fair split.
    """
    blind = rivals["blind_interpolation"]
    name, best = min(
        ((n, m) for n, m in rivals.items() if n != "blind_interpolation"), key=lambda item: item[1]
    )
    gap = f"{abs(best - mae):.2f} people {'better' if mae < best else 'worse'} than {name}"
    leak = "" if mae < blind else "; the split leaks: interpolating labels blindly does as well"
    return f"The adapter is {gap}{leak}."
