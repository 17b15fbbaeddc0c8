"""Writes to one MLflow run. Every method calls the store and can raise MLflow's errors."""

import hashlib
import json
import posixpath
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

MAX_PARAM_LENGTH = 6000  # characters; MLflow refuses more
MAX_METRIC_NAME_LENGTH = 250
SOURCE_TAGS = {"mlflow.source.name": "dvc.yaml", "mlflow.source.type": "PROJECT"}


class MlflowRun:
    """One run in the store, and the last step of each of its curves."""

    def __init__(self, client: Any, run: Any) -> None:
        """`client` is an MlflowClient, `run` the mlflow.entities.Run that it returned."""
        self.client = client
        self.run_id: str = run.info.run_id
        self._experiment_id: str = run.info.experiment_id
        self._start_time = run.info.start_time / 1000  # seconds since the epoch
        self._last_steps: dict[str, int] = {}

    def set_tags(self, values: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        tags = [RunTag(name, value) for name, value in values.items()]
        self.client.log_batch(self.run_id, tags=tags)

    def log_params(self, values: Mapping[str, Any]) -> None:
        """Logs params that the run does not have yet; MLflow refuses to change a param."""
        from mlflow.entities import Param

        known = self.client.get_run(self.run_id).data.params
        new = [Param(n, str(v)[:MAX_PARAM_LENGTH]) for n, v in values.items() if n not in known]
        self.client.log_batch(self.run_id, params=new)

    def log_results(self, values: Mapping[str, float]) -> None:
        """Logs metrics without steps. Skips values that the run already has."""
        known = self.client.get_run(self.run_id).data.metrics
        values = metric_names(values)
        self._log_metrics({n: v for n, v in values.items() if known.get(n) != v}, step=0)

    def log_step(self, values: Mapping[str, float], step: int) -> None:
        """Adds a point to each curve. Skips steps that the run already has."""
        values = metric_names(values)
        new = {name: v for name, v in values.items() if step > self._last_step(name)}
        self._log_metrics(new, step)
        self._last_steps |= dict.fromkeys(new, step)

    def log_system_metrics(self, values: Mapping[str, float]) -> None:
        """Logs metrics under system/; the step is in seconds since the run began."""
        seconds = int(time.time() - self._start_time)
        self._log_metrics({f"system/{name}": value for name, value in values.items()}, seconds)

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        self.client.log_artifact(self.run_id, path, folder)

    def log_dataset(self, split: str, md5: str, rows: int) -> None:
        """Logs the data as an input, identified by DVC's md5.

        The source is set because MLflow would otherwise record the user and the script.
        """
        from mlflow.entities import Dataset, DatasetInput, InputTag

        dataset = Dataset(
            name=f"data-{split}",
            digest=md5,
            source_type="local",
            source=json.dumps({"uri": "data.dvc"}),
            profile=json.dumps({"num_rows": rows}),
        )
        tag = InputTag("mlflow.data.context", split)
        self.client.log_inputs(self.run_id, datasets=[DatasetInput(dataset, [tag])])

    def log_adapter(self, folder: Path, sha256: str) -> None:
        """Uploads the adapter in `folder` as a logged model, unless the store has it already."""
        from mlflow.entities import LoggedModelOutput

        query = f"tags.adapter = '{sha256}'"
        models = self.client.search_logged_models([self._experiment_id], filter_string=query)
        if any(model.status == "READY" for model in models):  # other uploads were interrupted
            return
        # mlflow.create_external_model would add tags with the user and git's remote URL.
        tags = {"adapter": sha256, **SOURCE_TAGS}
        model = self.client.create_logged_model(
            self._experiment_id, "adapter", self.run_id, tags, None, "peft"
        )
        self.client.log_model_artifacts(model.model_id, str(folder))
        self.client.finalize_logged_model(model.model_id, "READY")
        self.client.log_outputs(self.run_id, [LoggedModelOutput(model.model_id, step=0)])

    def finish(self, status: str) -> None:
        """Ends the run with FINISHED, FAILED or KILLED."""
        self.client.set_terminated(self.run_id, status)

    def tag_folders(self, names: Mapping[str, str]) -> None:
        """Tags runs, by their ids, with the names of their folders in runs/."""
        from mlflow.exceptions import MlflowException

        for run_id, name in names.items():
            with suppress(MlflowException):  # somebody has deleted the run
                self.client.set_tag(run_id, "tensorboard", name)

    def _log_metrics(self, values: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(name, float(value), now, step) for name, value in values.items()]
        self.client.log_batch(self.run_id, metrics)

    def _last_step(self, name: str) -> int:
        """The last step of a curve, from the store when this process has not logged it; else -1."""
        if name not in self._last_steps:
            history = self.client.get_metric_history(self.run_id, name)
            self._last_steps[name] = max((point.step for point in history), default=-1)
        return self._last_steps[name]


def metric_names(values: Mapping[str, float]) -> dict[str, float]:
    """The values by names that MLflow takes: a camera's name may have any character and length."""
    return {metric_name(name): value for name, value in values.items()}


def metric_name(name: str) -> str:
    """`name`, or if MLflow refuses it, a name with a digest of it: no two names become one.

    MLflow also refuses a name that is not a normal path: `a//b`, `a/../b` or `/a`.
    """
    readable = re.sub(r"[^\w.: -]", "_", name)
    is_path = posixpath.normpath(name) == name and not name.startswith(("/", ".."))
    if re.fullmatch(r"[\w./: -]+", name) and is_path and len(name) <= MAX_METRIC_NAME_LENGTH:
        return name
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:12]
    group, _, figure = readable.rpartition(".")
    return f"{group[:100]}-{digest}.{figure[:100]}" if group else f"{figure[:100]}-{digest}"
