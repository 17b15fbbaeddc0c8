"""Selects the checkpoint that counts the validation frames best."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from safetensors.torch import load_file, save_file

from llava_dvc.model.adapter import Weights
from llava_dvc.model.counting import Counts, Floats, quantile


class CheckpointSelection:
    """All evaluations of the validation frames, in a folder that a resumed training finds again.
    Keeps only the best checkpoint's weights.
    """

    def __init__(self, folder: Path, counts: Counts) -> None:
        """`counts` are the frames' labels, in order of time."""
        self.folder, self.counts = folder, counts

    def add(self, step: int, probabilities: Floats, weights: Weights) -> None:
        """Keeps the distribution of every frame after `step`, `(frames, max_count + 1)`. Keeps
        `weights` if no earlier step counted better.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        before = [error for other, error in self._candidates().items() if other < step]
        if median_error(probabilities, self.counts) < min(before, default=np.inf):
            self._write(f"{step}.safetensors", lambda path: save_file(weights, path))
        self._write(f"{step}.npy", lambda path: np.save(path, probabilities))
        for other in self.folder.glob("*.safetensors"):
            if int(other.stem) not in (self.best_step(), step):
                other.unlink()

    def errors(self) -> dict[int, float]:
        """Mean absolute error in people of every evaluated step."""
        return {step: median_error(mass, self.counts) for step, mass in self._all().items()}

    def best_step(self) -> int:
        """The step with the least error, the first of equal ones."""
        errors = self._candidates()
        return min(errors, key=lambda step: (errors[step], step))

    def weights(self) -> Weights:
        """The best checkpoint's weights."""
        return dict(load_file(self.folder / f"{self.best_step()}.safetensors"))

    def distributions(self) -> Floats:
        """The cross-fitted distributions, `(frames, max_count + 1)`."""
        return cross_fit(list(self._all().values()), self.counts)

    def _candidates(self) -> dict[int, float]:
        """Steps with saved weights. A resumed training may compute other errors on a GPU."""
        kept = {int(path.stem) for path in self.folder.glob("[0-9]*.safetensors")}
        return {step: error for step, error in self.errors().items() if step in kept}

    def _all(self) -> dict[int, Floats]:
        files = sorted(self.folder.glob("[0-9]*.npy"), key=lambda path: int(path.stem))
        return {int(path.stem): np.load(path) for path in files}

    def _write(self, name: str, write: Callable[[Path], None]) -> None:
        partial = self.folder / f".{name}"
        write(partial)
        partial.replace(self.folder / name)


def median_error(probabilities: Floats, counts: Counts) -> float:
    """Mean absolute error of the medians, in people."""
    return float(np.abs(quantile(probabilities, 0.5) - counts).mean())


def cross_fit(candidates: Sequence[Floats], counts: Counts) -> Floats:
    """Two-fold cross-fitting: each half is judged by the checkpoint that the other half selects.

    All are `(frames, max_count + 1)`. A single frame has no other half.
    """
    middle = len(counts) // 2
    if not middle:
        return min(candidates, key=lambda mass: median_error(mass, counts))
    halves = slice(None, middle), slice(middle, None)
    selected = [
        min(candidates, key=lambda mass: median_error(mass[other], counts[other]))[own]
        for own, other in (halves, halves[::-1])
    ]
    return np.concatenate(selected)
