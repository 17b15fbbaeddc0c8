"""Labels that may be wrong: those that differ most from the model's count.

A model errs alike on frames that follow each other: it misses the same people. So a label is
compared with what the labels of the frames around it make of the model's count.
"""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import NamedTuple

from llava_dvc.data.data_errors import printable_name
from llava_dvc.labelling.label_pool import LabelPool
from llava_dvc.labelling.studio_tasks import Guess
from llava_dvc.model.smoothing import find_sequences

AROUND = 2
"""Frames before a frame, and after it, whose labels are looked at."""
SHARE = 0.8
"""Of their error, how much a frame is expected to have."""


class DoubtfulLabel(NamedTuple):
    frame: str
    label: int
    guess: Guess
    expected: float
    """The model's count, corrected by the labels of the frames around it."""

    @property
    def difference(self) -> float:
        """By how many people the label differs from what is expected."""
        return abs(self.label - self.expected)


def doubtful_labels(pool: LabelPool, guesses: Mapping[str, Guess]) -> list[DoubtfulLabel]:
    """The labels that differ by a person or more from what is expected, the largest first."""
    names = [name for name in pool.names if name in guesses]
    errors = [pool.labels[name].count - guesses[name].count for name in names]
    doubts = []
    for places in find_sequences(names, [pool.camera(name) for name in names]):
        usual = usual_errors([errors[place] for place in places])
        for place, error in zip(places, usual, strict=True):
            name = names[place]
            expected = guesses[name].count + SHARE * error
            doubts.append(DoubtfulLabel(name, pool.labels[name].count, guesses[name], expected))
    found = [doubt for doubt in doubts if doubt.difference >= 1]
    return sorted(found, key=lambda doubt: doubt.difference, reverse=True)


def usual_errors(errors: Sequence[int]) -> list[float]:
    """For each frame of a sequence, the median of the frames around it. 0 if there are none."""
    return [
        median([*errors[max(0, at - AROUND) : at], *errors[at + 1 : at + 1 + AROUND]] or [0])
        for at in range(len(errors))
    ]


def doubtful_table(doubts: Sequence[DoubtfulLabel]) -> str:
    """A line for each label, or one that says that there is none."""
    if not doubts:
        return "No label differs from the model's count by a person or more.\n"
    names = [printable_name(doubt.frame) for doubt in doubts]
    width = max(map(len, names))
    lines = [f"{'frame':{width}}  label  expected  model  interval"]
    for name, doubt in zip(names, doubts, strict=True):
        guess = doubt.guess
        interval = f"{guess.low} to {guess.high}"
        lines.append(
            f"{name:{width}}  {doubt.label:5}  {doubt.expected:8.1f}  {guess.count:5}  {interval}"
        )
    return "\n".join(lines) + "\n"
