"""`llava-dvc predict --smooth`: counts that take the frames around them into account."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from llava_dvc.errors import UserError
from llava_dvc.evaluation.decoding import decode_smoothed
from llava_dvc.model.counting import Answers, Floats
from llava_dvc.model.smoothing import CountChain, frame_number, is_next, usual_steps
from llava_dvc.recipe import Recipe, Smoothing
from llava_dvc.serving.counter import Count
from llava_dvc.serving.sources import Source, SourceFrame

LAG = 16
"""Later frames that a count waits for."""
MAX_WAITING_PIXELS = 64_000_000
"""Of the frames that wait, so that fewer large frames wait: 7 of 4K. A pixel takes four bytes."""
TOLERANCE = 1e-3  # seconds

Counted = tuple[SourceFrame, Count]


def require_smoothing(folder: Path, adapter: str | Path) -> None:
    """Raises UserError if the recipe in the adapter's `folder` has no smoothing."""
    if Recipe.read(folder).smoothing is None:
        raise UserError(
            f"--smooth: {adapter}: its recipe.json has no fitted smoothing. Train it again, on "
            "frames whose names number them in order of time, or leave out --smooth."
        )


def smooth_counts(
    counted: Iterable[Counted], recipe: Recipe, sources: Sequence[Source], every: float
) -> Iterator[Counted]:
    """Yields all frames in order. Each count is that of P(count | frames of the same sequence up to
    LAG frames later). `recipe` must have a smoothing.
    """
    ends = SequenceEnds(sources, every)
    waiting = WaitingFrames(recipe)
    for frame, count in counted:
        if ends.begins_with(frame):
            yield from waiting.take(len(waiting))
            waiting = WaitingFrames(recipe)
        waiting.add(frame, count)
        del frame
        while waiting.is_full():
            yield from waiting.take(1)
    yield from waiting.take(len(waiting))


class SequenceEnds:
    """Finds where one sequence ends and the next begins.

    A sequence is a part of one video, or images with numbers in their names that do not jump.
    """

    def __init__(self, sources: Sequence[Source], every: float) -> None:
        self._steps = usual_steps(frame_number(str(s.path)) for s in sources if not s.is_video)
        self._every = every
        self._last: tuple[Path, float | None] | None = None

    def begins_with(self, frame: SourceFrame) -> bool:
        """Whether `frame` is the first of a sequence. Frames must come in order."""
        last, self._last = self._last, (frame.path, frame.seconds)
        if last is None:
            return True
        path, seconds = last
        if seconds is None and frame.seconds is None:
            numbers = frame_number(str(path)), frame_number(str(frame.path))
            return not is_next(*numbers, self._steps)
        if seconds is None or frame.seconds is None or path != frame.path:
            return True
        # Less than two steps, unless a frame between them is left out.
        return frame.seconds - seconds > 2 * self._every - min(TOLERANCE, self._every / 10)


class WaitingFrames:
    """Frames of one sequence that are counted, and wait for later frames."""

    def __init__(self, recipe: Recipe) -> None:
        self._chain = frame_chain(recipe)
        self._decode = recipe.decode
        self._frames: deque[Counted] = deque()
        self._pixels = 0

    def __len__(self) -> int:
        return len(self._frames)

    def is_full(self) -> bool:
        """Whether the oldest frame has waited long enough."""
        return len(self) > LAG or self._pixels > MAX_WAITING_PIXELS

    def add(self, frame: SourceFrame, count: Count) -> None:
        self._chain.add(np.array(count.probabilities))
        self._frames.append((frame, count))
        self._pixels += frame.pixels

    def take(self, frames: int) -> list[Counted]:
        """The oldest `frames`, with their smoothed counts."""
        taken = [self._frames.popleft() for _ in range(frames)]
        self._pixels -= sum(frame.pixels for frame, _ in taken)
        rows = self._chain.take(frames)
        return [
            (frame, with_distribution(count, row, self._decode))
            for (frame, count), row in zip(taken, rows, strict=True)
        ]


def frame_chain(recipe: Recipe, widen: float = 1.0) -> CountChain:
    """Returns the chain for calibrated distributions. `recipe` must have a smoothing.

    `widen` multiplies the spread of its steps.
    """
    assert recipe.smoothing
    # The distributions are calibrated already, and two temperatures multiply.
    left = recipe.smoothing.temperature / recipe.temperature
    spread = recipe.smoothing.spread * widen
    return CountChain(Smoothing(spread=spread, temperature=left), recipe.max_count)


def with_distribution(count: Count, probabilities: Floats, decode: str) -> Count:
    """Returns `count` with its numbers read from a smoothed distribution, `(max_count + 1,)`."""
    found = decode_smoothed(Answers(probabilities[None], [count.reply]), decode)
    return replace(
        count,
        count=int(found.count[0]),
        low=int(found.low[0]),
        high=int(found.high[0]),
        expected=float(found.expected[0]),
        probabilities=tuple(found.probabilities[0].tolist()),
    )
