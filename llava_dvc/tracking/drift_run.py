"""Logs a report of `llava-dvc drift`: a run of its own, which is no training and no result."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava_dvc.pipeline_file import PIPELINE
from llava_dvc.tracking.provenance import git_tags, version_tags
from llava_dvc.tracking.run import Run, digest
from llava_dvc.tracking.run_lookup import RunIdentity, run_name

STAGE = "drift"
"""The value of the tag `stage`."""


@dataclass(frozen=True)
class DriftFigures:
    """What is logged of a report."""

    answer: str
    """Its first sentence."""
    days: int
    adapter: str
    """The first digits of its sha256."""
    metrics: Mapping[str, float]
    key: Sequence[Any]
    """What identifies the readings: the same key is the same run."""


def log_drift(figures: DriftFigures, folder: Path) -> None:
    """Logs the figures and the files in `folder`.

    Does nothing outside a repository, unless MLFLOW_TRACKING_URI is set: no store is made there.
    """
    if not (PIPELINE.is_file() or os.environ.get("MLFLOW_TRACKING_URI")):
        return
    key = digest(figures.key)
    tags = {
        "stage": STAGE, "answer": figures.answer, "watched_adapter": figures.adapter,
        f"key.{STAGE}": key, **git_tags(), **version_tags(),
    }  # fmt: skip
    run = Run(RunIdentity(STAGE, key, run_name(STAGE, key, ""), tags))
    run.params({"days": figures.days})
    run.metrics(figures.metrics)
    for path in sorted(folder.iterdir()):
        run.artifact(path)
    run.close("FINISHED")
