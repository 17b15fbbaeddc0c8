"""Smoothing over time: a hidden Markov chain over the true count of neighbouring frames.

From one frame to the next the count changes by a step with P(step) ~ exp(-|step| / spread). The
distribution of a frame is what is seen of its true count. All sums are sums of logarithms: no
sequence is so long or so certain that a probability becomes 0.
"""

import math
import re
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize_scalar

from llava_dvc.model.calibration import SMALLEST, tempered
from llava_dvc.model.counting import Counts, Floats
from llava_dvc.recipe import Smoothing

TEMPERATURES = 0.25, 64.0
"""Errors of neighbours are alike, so the best temperature is larger than that of single frames."""

WIDTHS = 1.0, 2.0
"""How many times the spread of the labels' steps the chain may have. Where all frames are counted
too high, or too low, a wide chain is less sure.
"""

Positions = list[int]
"""Positions of a sequence's frames in a list, in order of time."""


# --- the chain ----------------------------------------------------------------------------------


class CountChain:
    """The chain of one sequence. Frames are added in order of time, and taken in the same order."""

    def __init__(self, smoothing: Smoothing, max_count: int) -> None:
        self._temperature = smoothing.temperature
        self._ramp = np.arange(max_count + 1) / smoothing.spread
        self._norm = self._sum_of_steps(np.zeros(max_count + 1))
        self._last: Floats | None = None
        self._waiting: deque[tuple[Floats, Floats]] = deque()

    def __len__(self) -> int:
        """The number of frames that are added and not taken."""
        return len(self._waiting)

    def add(self, probabilities: Floats) -> None:
        """The next frame's distribution, `(max_count + 1,)`."""
        seen = np.log(np.maximum(tempered(probabilities[None], self._temperature)[0], SMALLEST))
        before = 0.0 if self._last is None else self._sum_of_steps(self._last - self._norm)
        self._last = _normalized(before + seen)
        self._waiting.append((self._last, seen))

    def take(self, frames: int) -> Floats:
        """The marginals of the oldest `frames`, given all frames that were added up to now.

        Shape `(frames, max_count + 1)`.
        """
        later = np.zeros_like(self._norm)
        found = []
        for place in reversed(range(len(self._waiting))):
            past, seen = self._waiting[place]
            if place < frames:
                found.append(np.exp(_normalized(past + later)))
            later = _normalized(self._sum_of_steps(seen + later) - self._norm)
        for _ in found:
            self._waiting.popleft()
        return np.array(found[::-1]).reshape(-1, len(self._norm))

    def _sum_of_steps(self, logs: Floats) -> Floats:
        """log of the sum over m of exp(logs[m] - |m - n| / spread), for every n.

        Two running sums, one up to n and one from n + 1 on, take the place of a matrix.
        """
        below = np.logaddexp.accumulate(logs + self._ramp) - self._ramp
        above = np.logaddexp.accumulate((logs - self._ramp)[::-1])[::-1] + self._ramp
        step = self._ramp[1] if len(self._ramp) > 1 else 0.0
        total: Floats = np.logaddexp(below, np.append(above[1:] - step, -np.inf))
        return total


def smooth(probabilities: Floats, smoothing: Smoothing, lag: int | None = None) -> Floats:
    """P(count of frame t | frames up to t + lag) for every frame of one sequence.

    `lag` None takes all frames into account, and 0 only the frames before. `(frames,
    max_count + 1)` in and out.
    """
    chain = CountChain(smoothing, probabilities.shape[1] - 1)
    found = []
    for row in probabilities:
        chain.add(row)
        if lag is not None and len(chain) > lag:
            found.append(chain.take(1))
    return np.concatenate([*found, chain.take(len(chain))])


def smooth_sequences(
    probabilities: Floats, sequences: Iterable[Positions], smoothing: Smoothing
) -> Floats:
    """The marginals of all frames, each given all frames of its sequence."""
    found = np.empty_like(probabilities)
    for places in sequences:
        found[places] = smooth(probabilities[places], smoothing)
    return found


def _normalized(logs: Floats) -> Floats:
    """`logs` of probabilities that sum to one."""
    scaled: Floats = logs - np.logaddexp.reduce(logs)
    return scaled


# --- which frames belong together ---------------------------------------------------------------


class FrameNumber(NamedTuple):
    """What the name of a frame says about its place in time."""

    group: str
    """The rest of the name, with its folder."""
    number: int


def frame_number(name: str, camera: str | None = None) -> FrameNumber | None:
    """The last group of digits in a file's name. None if the name has no digit."""
    path = PurePath(name)
    found = re.fullmatch(r"(.*?)([0-9]+)([^0-9]*)", path.stem, re.DOTALL)
    if found is None:
        return None
    rest = path.with_name(f"{found[1]}*{found[3]}{path.suffix}")
    return FrameNumber(f"{camera or ''}\0{rest}", int(found[2]))


def usual_steps(numbers: Iterable[FrameNumber | None]) -> dict[str, int]:
    """The normal difference between the numbers of neighbours, for each group that has one.

    It is the most common rise, and that of at least half of the neighbours. A group of two
    frames has one only if it is 1: other pairs are likelier to be two unrelated pictures.
    """
    differences, last = defaultdict(list), dict[str, int]()
    for one in filter(None, numbers):
        if one.group in last:
            differences[one.group].append(one.number - last[one.group])
        last[one.group] = one.number
    steps = {}
    for group, found in differences.items():
        rises = Counter(step for step in found if step > 0)
        step, times = min(rises.items(), key=lambda item: (-item[1], item[0]), default=(0, 0))
        if 2 * times >= len(found) and (times > 1 or step == 1):
            steps[group] = step
    return steps


def is_next(
    before: FrameNumber | None, after: FrameNumber | None, steps: Mapping[str, int]
) -> bool:
    """Whether two frames are neighbours in time. `steps` are those of `usual_steps`."""
    if before is None or after is None or before.group != after.group:
        return False
    return after.number - before.number == steps.get(after.group)


def find_sequences(names: Sequence[str], cameras: Sequence[str | None]) -> list[Positions]:
    """Positions of the frames that belong together. `names` are in order of time in each camera.

    A sequence has one camera. It ends at a jump in the numbers of the names. A name without digits
    is a sequence of its own.
    """
    numbers = list(map(frame_number, names, cameras))
    steps = usual_steps(numbers)
    sequences: list[Positions] = []
    newest: dict[str, Positions] = {}
    for place, number in enumerate(numbers):
        own = newest.get(number.group) if number else None
        if own and is_next(numbers[own[-1]], number, steps):
            own.append(place)
            continue
        sequences.append([place])
        if number:
            newest[number.group] = sequences[-1]
    return sequences


# --- fitting ------------------------------------------------------------------------------------


def label_steps(counts: ArrayLike, sequences: Iterable[Positions]) -> Counts:
    """By how many people the labels of neighbouring frames differ."""
    labels = np.asarray(counts, dtype=np.int64)
    return np.concatenate([[], *(np.abs(np.diff(labels[places])) for places in sequences)])


def fit_spread(steps: Counts) -> float:
    """The spread that makes the steps likeliest. There must be one.

    With 1 / spread = asinh(1 / m) the mean absolute step of a chain without ends is m. Labels that
    never change count as half a step in all. Rounded to three digits after the point.
    """
    mean = max(float(np.mean(steps)), 0.5 / len(steps))
    return max(round(1 / math.asinh(1 / mean), 3), 0.001)


def fit_smoothing(
    steps: Counts, probabilities: Floats, counts: ArrayLike, sequences: Sequence[Positions]
) -> Smoothing | None:
    """One of WIDTHS times the spread of the training labels' `steps`, and a temperature.

    Both make the true counts of the validation frames likeliest after smoothing. None if either
    split has no two neighbouring frames.
    """
    if not len(steps) or all(len(places) < 2 for places in sequences):
        return None
    truth = np.asarray(counts, dtype=int)

    def mean_nll(smoothing: Smoothing) -> float:
        mass = smooth_sequences(probabilities, sequences, smoothing)
        right = mass[np.arange(len(truth)), truth.clip(max=mass.shape[1] - 1)]
        return float(-np.log(np.maximum(right, SMALLEST)).mean())

    spread = fit_spread(steps)
    return min((_fit_temperature(width * spread, mean_nll) for width in WIDTHS), key=mean_nll)


def _fit_temperature(spread: float, loss: Callable[[Smoothing], float]) -> Smoothing:
    """The temperature with the smallest loss, rounded to three digits after the point."""

    def smoothing(log_temperature: float) -> Smoothing:
        return Smoothing(spread=spread, temperature=float(np.exp(log_temperature)))

    low, high = map(math.log, TEMPERATURES)
    best: Any = minimize_scalar(
        lambda log: loss(smoothing(log)), bounds=(low, high), method="bounded"
    )
    return Smoothing(spread=spread, temperature=round(float(np.exp(best.x)), 3))
