"""One number from a distribution over counts."""

from dataclasses import replace

import numpy as np

from llava_dvc.conversation import parse_count
from llava_dvc.model.calibration import tempered
from llava_dvc.model.counting import Answers, Counts, Floats, quantile


def read(answers: Answers, temperature: float, how: str) -> tuple[Floats, Counts]:
    """The tempered distributions, and the one number that `how` reads from each."""
    mass = tempered(answers.probabilities, temperature)
    return mass, decode(replace(answers, probabilities=mass), how)


def expected(probabilities: Floats) -> Floats:
    """The mean count, one a frame: best for squared error."""
    return probabilities @ np.arange(probabilities.shape[1])


def decode(answers: Answers, how: str) -> Counts:
    """One whole number a frame.

    The median is best for absolute error and the mean for squared error (RAIL, arXiv 2403.04182).
    `greedy` is the number written in the reply; where there is none, the most likely count.
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
