"""Labels that may be wrong: those that are farthest outside the interval of the model's count."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from llava_dvc.data.data_errors import printable_name
from llava_dvc.labelling.label_pool import LabelPool
from llava_dvc.labelling.studio_tasks import Guess


class DoubtfulLabel(NamedTuple):
    frame: str
    label: int
    guess: Guess

    @property
    def beyond(self) -> float:
        """How far the label lies outside the interval, in widths of the interval."""
        low, count, high = self.guess.low, self.guess.count, self.guess.high
        side = high - count if self.label > count else count - low
        return abs(self.label - count) / (side + 1)


def rank_labels(labels: Mapping[str, int], guesses: Mapping[str, Guess]) -> list[DoubtfulLabel]:
    """All labels, the most doubtful first."""
    doubts = [DoubtfulLabel(name, labels[name], guess) for name, guess in guesses.items()]
    return sorted(doubts, key=lambda doubt: -doubt.beyond)


def doubtful_labels(pool: LabelPool, guesses: Mapping[str, Guess]) -> list[DoubtfulLabel]:
    """The labels outside the interval of the model's count, the most doubtful first."""
    labels = {name: label.count for name, label in pool.labels.items()}
    return [
        doubt
        for doubt in rank_labels(labels, guesses)
        if not doubt.guess.low <= doubt.label <= doubt.guess.high
    ]


def doubtful_table(doubts: Sequence[DoubtfulLabel]) -> str:
    """A line for each label, or one that says that there is none."""
    if not doubts:
        return "No label is outside the interval of the model's count.\n"
    names = [printable_name(doubt.frame) for doubt in doubts]
    width = max(map(len, names))
    lines = [f"{'frame':{width}}  label  model  interval"]
    for name, doubt in zip(names, doubts, strict=True):
        interval = f"{doubt.guess.low} to {doubt.guess.high}"
        lines.append(f"{name:{width}}  {doubt.label:5}  {doubt.guess.count:5}  {interval}")
    return "\n".join(lines) + "\n"
