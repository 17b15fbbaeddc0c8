"""By how many people the adapter is better than a baseline, and how sure that is."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import pandas as pd

from llava_dvc.errors import UserError
from llava_dvc.metrics import mean_interval

RIVALS = ("train_mean", "zero_shot", "ridge_features")
"""The baselines that an adapter has to beat. Blind interpolation knows labels of the frames."""


class Improvement(NamedTuple):
    """MAE of the baseline minus MAE of the adapter, in people, with its 95 % interval."""

    mean: float
    low: float
    high: float
    frames: int

    def __str__(self) -> str:
        """Example: better by 0.26 people (-0.10 to 0.61, 95 %): not clear on 60 frames."""
        word = "better" if self.mean >= 0 else "worse"
        amounts = (self.low, self.high) if self.mean >= 0 else (-self.high, -self.low)
        low, high = (f"{amount + 0.0:.2f}" for amount in amounts)
        text = f"{word} by {abs(self.mean):.2f} people ({low} to {high}, 95 %)"
        return text if self.is_clear else f"{text}: not clear on {self.frames} frames"

    @property
    def is_clear(self) -> bool:
        """Whether the interval does not hold 0."""
        return self.low > 0 or self.high < 0


def read_improvements(predictions: Path, answers: Path) -> dict[str, Improvement]:
    """The improvement over each baseline, from predictions/eval.csv and predictions/baseline.csv.

    Raises UserError when the files have other frames.
    """
    ours, theirs = pd.read_csv(predictions), pd.read_csv(answers)
    columns = ["frame", "count"]
    if not ours[columns].equals(theirs[columns]):
        raise UserError(f"{answers}: has other frames than {predictions}; run `dvc repro`")
    return {name: improvement(ours, theirs[name]) for name in RIVALS}


def improvement(ours: pd.DataFrame, answers: pd.Series) -> Improvement:
    """Pairs the errors frame by frame, with a bootstrap of blocks of frames."""
    errors = [(column - ours["count"]).abs() for column in (answers, ours["predicted"])]
    differences = (errors[0] - errors[1]).to_numpy(dtype=float)
    return Improvement(float(differences.mean()), *mean_interval(differences), len(differences))


def verdict(
    mae: float,
    rivals: dict[str, float],
    improvements: Mapping[str, Improvement] = MappingProxyType({}),
) -> str:
    """The table in a sentence. `improvements` are known where there are answers frame by frame.

    Blind interpolation sees no frame: beating it only shows that the split is fair.
    """
    blind = rivals["blind_interpolation"]
    name, best = min(
        ((n, m) for n, m in rivals.items() if n != "blind_interpolation"), key=lambda item: item[1]
    )
    gap = f"The adapter is {abs(best - mae):.2f} people {'better' if mae < best else 'worse'} than"
    gap = f"{gap} {name}"
    if name in improvements:
        gap = f"Against {name}, the adapter is {improvements[name]}"
    leak = "" if mae < blind else "; the split leaks: interpolating labels blindly does as well"
    return f"{gap}{leak}."
