"""The model's counts of the frames that are sent to annotators."""

from collections.abc import Sequence
from math import prod
from pathlib import Path

from llava_dvc.labelling.label_pool import LabelPool
from llava_dvc.labelling.studio_tasks import Guess
from llava_dvc.recipe import adapter_sha256
from llava_dvc.serving.adapter_source import find_adapter
from llava_dvc.serving.counter import Counter
from llava_dvc.terminal.progress import progress

MODEL_DIGITS = 12
"""Of the adapter's digest, as Label Studio shows it."""


def guess_counts(pool: LabelPool, names: Sequence[str], adapter: str | Path) -> dict[str, Guess]:
    """The adapter's answer for each frame; raises UserError."""
    folder = find_adapter(adapter)
    counter = Counter.from_pretrained(folder)
    model = adapter_sha256(folder)[:MODEL_DIGITS]
    with progress("label", len(names) * prod(counter.recipe.image.tiles)):
        counts = counter.count([pool.path(name) for name in names])
    return {
        name: Guess(
            found.count, found.low, found.high, round(found.probabilities[found.count], 4), model
        )
        for name, found in zip(names, counts, strict=True)
    }
