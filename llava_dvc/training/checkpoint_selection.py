"""What training learns from the validation frames: which of its adapters to keep, and how far that
one's distribution over counts may be believed.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from safetensors.torch import load_file, save_file
from torch import Tensor

from llava_dvc.model.calibration import fit_temperature
from llava_dvc.model.counting import Counts, Floats, quantile

Weights = dict[str, Tensor]


class Validations:
    """Every counting of the validation frames, in a folder that a resumed training finds again; of
    the adapters only the best one's weights.
    """

    def __init__(self, folder: Path, counts: Counts) -> None:
        """`counts` are the frames' labels, in order of time."""
        self.folder, self.counts = folder, counts

    def add(self, step: int, probabilities: Floats, weights: Weights) -> None:
        """Keep what the adapter after `step` says of every frame, `(frames, max_count + 1)`, and
        `weights` if none before it counted better.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        before = [error for other, error in self._candidates().items() if other < step]
        if absolute_error(probabilities, self.counts) < min(before, default=np.inf):
            self._write(f"{step}.safetensors", lambda path: save_file(weights, path))
        self._write(f"{step}.npy", lambda path: np.save(path, probabilities))
        for other in self.folder.glob("*.safetensors"):
            if int(other.stem) not in (self.best(), step):
                other.unlink()

    def errors(self) -> dict[int, float]:
        """Mean absolute error in people after each step that was followed by a counting."""
        return {step: absolute_error(mass, self.counts) for step, mass in self._all().items()}

    def best(self) -> int:
        """The step with the least error; of equal ones the first."""
        errors = self._candidates()
        return min(errors, key=lambda step: (errors[step], step))

    def weights(self) -> Weights:
        """Those of the best adapter."""
        return dict(load_file(self.folder / f"{self.best()}.safetensors"))

    def temperature(self) -> float:
        """Cross-fitted: see `without_a_say`."""
        mass = without_a_say(list(self._all().values()), self.counts)
        return fit_temperature(mass, self.counts)

    def _candidates(self) -> dict[int, float]:
        """Those whose weights are there: a training resumed on a GPU may find other errors."""
        kept = {int(path.stem) for path in self.folder.glob("[0-9]*.safetensors")}
        return {step: error for step, error in self.errors().items() if step in kept}

    def _all(self) -> dict[int, Floats]:
        files = sorted(self.folder.glob("[0-9]*.npy"), key=lambda path: int(path.stem))
        return {int(path.stem): np.load(path) for path in files}

    def _write(self, name: str, write: Callable[[Path], None]) -> None:
        partial = self.folder / f".{name}"
        write(partial)
        partial.replace(self.folder / name)


def absolute_error(probabilities: Floats, counts: Counts) -> float:
    """Mean absolute error of the medians, in people."""
    return float(np.abs(quantile(probabilities, 0.5) - counts).mean())


def without_a_say(candidates: Sequence[Floats], counts: Counts) -> Floats:
    """Of each half of the frames, the distribution of the candidate that the other half would have
    chosen: as of frames that chose nothing.

    All `(frames, max_count + 1)`. A single frame has no other half.
    """
    middle = len(counts) // 2
    if not middle:
        return min(candidates, key=lambda mass: absolute_error(mass, counts))
    halves = slice(None, middle), slice(middle, None)
    chosen = [
        min(candidates, key=lambda mass: absolute_error(mass[other], counts[other]))[own]
        for own, other in (halves, halves[::-1])
    ]
    return np.concatenate(chosen)
