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
    def beyond(self) -> tuple[int, int]:
        """How many people the label lies outside the interval; then, how far from the count."""
        outside = max(self.guess.low - self.label, self.label - self.guess.high)
        return outside, abs(self.label - self.guess.count)


def doubtful_labels(pool: LabelPool, guesses: Mapping[str, Guess]) -> list[DoubtfulLabel]:
    """The labels outside the interval of the model's count, the most doubtful first."""
    doubts = [DoubtfulLabel(name, pool.labels[name].count, guesses[name]) for name in guesses]
    outside = [doubt for doubt in doubts if doubt.beyond[0] > 0]
    return sorted(outside, key=lambda doubt: doubt.beyond, reverse=True)


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
