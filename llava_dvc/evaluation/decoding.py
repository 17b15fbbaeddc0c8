"""What is read from a distribution over counts: one number, an interval, the mean."""

from dataclasses import dataclass, replace

import numpy as np

from llava_dvc.conversation import parse_count
from llava_dvc.model.calibration import tempered
from llava_dvc.model.counting import Answers, Counts, Floats, quantile

TAIL = 0.1  # share of the mass below an interval, and above it


@dataclass(frozen=True)
class DecodedCounts:
    """One value a frame."""

    probabilities: Floats
    """P(count) after calibration, shape `(frames, max_count + 1)`."""
    count: Counts
    """The one number that is read from it."""
    low: Counts
    high: Counts
    """`low` to `high` is the 80 % interval, both included."""
    expected: Floats
    """The mean count."""
    replies: list[str]
    """The free text."""


def decode_answers(answers: Answers, temperature: float, how: str) -> DecodedCounts:
    """Calibrates the answers by `temperature` and reads each as `evaluate.decode` says."""
    mass = tempered(answers.probabilities, temperature)
    return _read_answers(replace(answers, probabilities=mass), how)


def decode_smoothed(answers: Answers, how: str) -> DecodedCounts:
    """Reads answers whose distributions are smoothed over time, as `evaluate.decode` says.

    A greedy reply is that of one frame alone. The most likely count takes its place.
    """
    return _read_answers(answers, "mode" if how == "greedy" else how)


def _read_answers(answers: Answers, how: str) -> DecodedCounts:
    mass = answers.probabilities
    return DecodedCounts(
        probabilities=mass,
        count=decode(answers, how),
        low=quantile(mass, TAIL),
        high=quantile(mass, 1 - TAIL),
        expected=expected(mass),
        replies=answers.replies,
    )


def expected(probabilities: Floats) -> Floats:
    """The mean count of each frame. It is best for squared error."""
    return probabilities @ np.arange(probabilities.shape[1])


def decode(answers: Answers, how: str) -> Counts:
    """One whole number a frame.

    The median is best for absolute error, the mean for squared error (RAIL, arXiv 2403.04182).
    `greedy` is the number in the reply, or the most likely count if there is none.
    """
    probabilities = answers.probabilities
    mode: Counts = probabilities.argmax(axis=1)
    match how:
        case "median":
            return quantile(probabilities, 0.5)
        case "mean":
            return np.rint(expected(probabilities)).astype(np.int64)
        case "mode":
            return mode
        case "greedy":
            parsed = [parse_count(reply) for reply in answers.replies]
            return np.array([m if p is None else p for p, m in zip(parsed, mode, strict=True)])
    raise ValueError(f"evaluate.decode is {how!r}, expected median, mean, mode or greedy")
