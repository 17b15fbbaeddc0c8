"""Finds the MLflow run of a result, or creates it.

A stage never stores a run id. A tag `key.STAGE` holds a digest of everything that decides the
result, and the run is found by this tag.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llava_dvc.tracking.mlflow_run import MlflowRun


@dataclass(frozen=True)
class RunIdentity:
    """How a run is found and what it is called."""

    stage: str
    key: str
    name: str
    """Of a new run."""
    tags: Mapping[str, str]
    adapter: str | None = None
    """sha256; the run of this adapter's training is taken if it has no key of this stage yet."""

    @property
    def key_tag(self) -> str:
        return f"key.{self.stage}"


def run_name(stage: str, key: str, git_revision: str) -> str:
    """The name of a new run.

    A training and its evaluation have the name of the DVC experiment, or git revision and key. The
    other stages, which experiments share, have their stage and key.
    """
    if stage not in {"train", "result"}:
        return f"{stage}-{key[:6]}"
    return os.environ.get("DVC_EXP_NAME") or f"{git_revision[:7]}-{key[:6]}"


def find_run(client: Any, experiment: str, identity: RunIdentity) -> Any:
    """The run with the key, one that has not ended first; else the adapter's training run without
    any key of this stage; else None.
    """
    with_key = f"tags.`{identity.key_tag}` = '{identity.key}'"
    runs = sorted(search_runs(client, experiment, with_key), key=has_ended)
    if not runs and identity.adapter:
        trainings = find_trainings(client, experiment, identity.adapter)
        runs = [run for run in trainings if identity.key_tag not in run.data.tags]
    return runs[0] if runs else None


def has_ended(run: Any) -> bool:
    """Whether a run holds a whole training. A repeated training must not change it."""
    is_finished = run.info.status == "FINISHED" or "key.result" in run.data.tags
    return "adapter" in run.data.tags and is_finished


def find_repeated(client: Any, experiment: str, identity: RunIdentity, adapter: str) -> Any:
    """The run of a training with the same key that has made an equal adapter, or None."""
    query = f"tags.`{identity.key_tag}` = '{identity.key}' and tags.adapter = '{adapter}'"
    runs = search_runs(client, experiment, query)
    return runs[0] if runs else None


def find_trainings(client: Any, experiment: str, adapter: str) -> list[Any]:
    return search_runs(client, experiment, f"tags.adapter = '{adapter}' and tags.key.train != ''")


def search_runs(client: Any, experiment: str, query: str) -> list[Any]:
    """The runs that match, oldest first."""
    return list(client.search_runs([experiment], query, order_by=["start_time ASC"]))


def create_run(client: Any, experiment: str, identity: RunIdentity) -> Any:
    """A new run; when it evaluates an adapter again, it is tagged with the training's run id."""
    tags = {"stage": identity.stage, "tensorboard": identity.name, **identity.tags}
    if identity.adapter:
        trainings = find_trainings(client, experiment, identity.adapter)
        if trainings:
            tags["training_run"] = trainings[0].info.run_id
    return client.create_run(experiment, run_name=identity.name, tags=tags)


def resume_run(run: MlflowRun, found: Any, identity: RunIdentity) -> None:
    """Sets status, name and tags of a run that was found in the store.

    A training's run takes the name of the DVC experiment that evaluates it first. It stays dirty
    when its training was dirty.
    """
    name, tags = found.info.run_name, dict(identity.tags)
    if identity.key_tag not in found.data.tags:
        name = os.environ.get("DVC_EXP_NAME") or name
    if identity.stage != "train" and found.data.tags.get("dirty") == "true":
        tags["dirty"] = "true"
    run.client.update_run(run.run_id, status="RUNNING", name=name)
    run.set_tags(tags)


def repeat_run(run: MlflowRun, found: Any, identity: RunIdentity) -> None:
    """Notes in a run that its training was repeated with an equal adapter.

    The run keeps its stage: a result stays a result. A repeat with uncommitted changes proves less
    than the first training, so its source is not noted.
    """
    is_dirty = identity.tags.get("dirty") == "true"
    tags = {} if is_dirty else dict(identity.tags)
    tags["stage"] = "result" if "key.result" in found.data.tags else identity.stage
    run.set_tags(tags)
