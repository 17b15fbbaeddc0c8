"""Experiments as DVC lists them beside the runs that MLflow holds of them."""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from llava_dvc.config import flatten
from llava_dvc.errors import UserError
from llava_dvc.tracking.mlflow_store import connect, lost

ADAPTER = "models/adapter"
METRICS = "metrics/evaluate.json"
COLUMNS = ("experiment", "revision", "adapter", "MAE", "RMSE", "MLflow run", "run id", "")


@dataclass(frozen=True)
class Row:
    """A row of `dvc exp show`; without an adapter it has not been run."""

    name: str
    revision: str
    adapter: str | None
    """DVC's md5 of its folder."""
    data: str | None
    evaluate: dict[str, str]
    """The evaluate section, as MLflow writes params."""
    metrics: dict[str, float]
    fault: str


def table() -> str:
    """Every row of `dvc exp show` with its MLflow run: those that came from DVC's run cache, which
    ran none of our code, with the run of the same result. Raises UserError when DVC has no rows or
    the tracker is lost.
    """
    shown = rows(exp_show())  # first: outside a repository there is no store either
    found = results()
    cells = [COLUMNS] + [_cells(row, run_of(row, found)) for row in shown]
    widths = [max(len(line[i]) for line in cells) for i in range(len(COLUMNS))]
    lines = ["  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) for line in cells]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def exp_show() -> Any:
    """What `dvc exp show --json` prints. Raises UserError with DVC's own words when it fails."""
    command = [sys.executable, "-m", "dvc", "exp", "show", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip() or "no message").splitlines()[-1]
        raise UserError(f"dvc exp show: {last}; run from the repository's root, after `dvc repro`")
    return json.loads(done.stdout)


def rows(shown: Any) -> Iterator[Row]:
    """Commits and, below each, its experiments, in DVC's order."""
    for commit in shown:
        yield _row(commit)
        for group in commit.get("experiments") or []:
            for experiment in group.get("revs") or [group]:
                yield _row(experiment)


def results() -> list[Any]:
    """MLflow's runs that hold an evaluation, oldest first. Raises UserError when it is lost."""
    from mlflow.exceptions import MlflowException

    try:
        client, experiment = connect()
        found = client.search_runs([experiment], "tags.key.result != ''", order_by=["start_time"])
    except (MlflowException, OSError) as error:
        raise lost(error) from None
    return list(found)


def run_of(row: Row, found: list[Any]) -> Any:
    """The run of the same adapter, data and evaluation, or None."""
    for run in found:
        tags, params = run.data.tags, run.data.params
        same = tags.get("adapter_md5") == row.adapter and tags.get("data_md5") == row.data
        if same and all(params.get(name) == value for name, value in row.evaluate.items()):
            return run
    return None


def _row(shown: dict[str, Any]) -> Row:
    data = shown.get("data") or {}
    params = (data.get("params") or {}).get("params.yaml", {}).get("data") or {}
    metrics = (data.get("metrics") or {}).get(METRICS, {}).get("data") or {}
    error = shown.get("error") or {}
    revision = "-" if shown["rev"] == "workspace" else shown["rev"][:7]
    return Row(
        name=shown.get("name") or shown["rev"],
        revision=revision,
        adapter=((data.get("outs") or {}).get(ADAPTER) or {}).get("hash"),
        data=((data.get("deps") or {}).get("data") or {}).get("hash"),
        evaluate={
            f"evaluate.{name}": str(value) for name, value in params.get("evaluate", {}).items()
        },
        metrics=flatten(metrics),
        fault=" ".join(str(error.get("msg", "")).split()),
    )


def _cells(row: Row, run: Any) -> tuple[str, ...]:
    name, run_id, note = "-", "-", row.fault or "not run"
    if run is not None:
        name, run_id = run.info.run_name, run.info.run_id[:8]
        note = _note(row, run)
    elif row.adapter and row.metrics:
        note = "no run of these settings"
    figures = [str(row.metrics.get(metric, "-")) for metric in ("mae", "rmse")]
    return (row.name, row.revision, (row.adapter or "-")[:8], *figures, name, run_id, note)


def _note(row: Row, run: Any) -> str:
    """Whether the run is the row's own, and agrees with it."""
    differ = [k for k, v in row.metrics.items() if run.data.metrics.get(k) != v]
    if differ:
        return f"differs in {', '.join(differ[:3])}"
    return "" if run.info.run_name == row.name else "the same result"
