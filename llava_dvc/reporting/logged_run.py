"""What MLflow knows of a result: curves, minutes, memory and machine."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from llava_dvc.config import Config, flatten
from llava_dvc.tracking.mlflow_store import connect, unreachable
from llava_dvc.tracking.run import digest
from llava_dvc.tracking.run_lookup import search_runs

Curve = list[tuple[int, float]]
"""Steps and values."""
CURVES = ("train/loss", "val/mae")
STAGES = ("prepare", "baseline", "train", "evaluate", "publish")


@dataclass(frozen=True)
class Usage:
    """What a stage needed."""

    minutes: float
    memory: float
    """GiB."""
    gpu_memory: float | None = None
    """GiB; None without a GPU."""


@dataclass(frozen=True)
class LoggedRun:
    """A result in MLflow."""

    curves: dict[str, Curve] = field(default_factory=dict)
    usage: dict[str, Usage] = field(default_factory=dict)
    """By the name of the stage. A stage that DVC took from its cache may be missing."""
    name: str = ""
    run_id: str = ""
    began: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ResultKeys:
    """What identifies a result and the stages before it."""

    cfg: Config
    report: dict[str, Any]
    """Content of prepared/report.json."""
    adapter_md5: str
    """DVC's, of models/adapter."""

    @property
    def prepare(self) -> str:
        return digest(self.report, self._sections("seed", "data", "split", "prompt"))

    @property
    def baseline(self) -> str:
        return digest(self.report, self._sections("image", "backbone"))

    def _sections(self, *names: str) -> dict[str, Any]:
        return self.cfg.model_dump(include=set(names))


def read_logged_run(keys: ResultKeys) -> LoggedRun | None:
    """The run of a result; None if the tracker has none. Raises UserError without the tracker."""
    try:
        client, experiment = connect()
        result = _find_result(client, experiment, keys)
        if result is None:
            return None
        training = result.data.tags.get("training_run")
        runs = [
            *search_runs(client, experiment, f"tags.`key.prepare` = '{keys.prepare}'")[-1:],
            *search_runs(client, experiment, f"tags.`key.baseline` = '{keys.baseline}'")[-1:],
            *([client.get_run(training)] if training else []),
            result,
        ]
        curves = {name: _curve(client, training or result.info.run_id, name) for name in CURVES}
    except Exception as error:  # a tracker can raise anything
        raise unreachable(error) from None
    metrics = {name: value for run in runs for name, value in run.data.metrics.items()}
    began = datetime.fromtimestamp(runs[-1].info.start_time / 1000, UTC)
    return LoggedRun(
        curves={name: curve for name, curve in curves.items() if curve},
        usage={stage: use for stage in STAGES if (use := _usage(metrics, stage))},
        name=result.info.run_name,
        run_id=result.info.run_id,
        began=f"{began:%Y-%m-%d %H:%M} UTC",
        tags=result.data.tags,
    )


def _find_result(client: Any, experiment: str, keys: ResultKeys) -> Any:
    """The newest run with the same adapter, data and evaluate section, or None."""
    data = keys.report["data_md5"]
    if not re.fullmatch(r"[\w.]+", f"{keys.adapter_md5}{data}"):
        return None
    query = f"tags.adapter_md5 = '{keys.adapter_md5}' and tags.data_md5 = '{data}'"
    section = flatten({"evaluate": keys.cfg.evaluate.model_dump()})
    wanted = {name: str(value) for name, value in section.items()}
    runs = search_runs(client, experiment, query)
    same = [run for run in runs if wanted.items() <= run.data.params.items()]
    return same[-1] if same else None


def _curve(client: Any, run_id: str, name: str) -> Curve:
    history = client.get_metric_history(run_id, name)
    return sorted({point.step: point.value for point in history}.items())


def _usage(metrics: Mapping[str, float], stage: str) -> Usage | None:
    prefix = f"usage/{stage}/"
    if f"{prefix}minutes" not in metrics:
        return None
    gpu = metrics.get(f"{prefix}peak_gpu_memory_gib")
    return Usage(metrics[f"{prefix}minutes"], metrics[f"{prefix}peak_memory_gib"], gpu)
