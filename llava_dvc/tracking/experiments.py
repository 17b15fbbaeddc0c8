"""The table of `llava-dvc runs`: DVC's experiments beside their MLflow runs."""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from llava_dvc.config import flatten
from llava_dvc.errors import UserError
from llava_dvc.tracking.mlflow_run import metric_names
from llava_dvc.tracking.mlflow_store import connect, unreachable
from llava_dvc.tracking.run import result_key

ADAPTER = "models/adapter"
METRICS = "metrics/evaluate.json"
HEADER = ("experiment", "revision", "adapter", "MAE", "RMSE", "MLflow run", "run id", "")


@dataclass(frozen=True)
class ExperimentRow:
    """A row of `dvc exp show`."""

    name: str
    revision: str
    adapter: str | None
    """DVC's md5 of the adapter; None when the experiment has not run."""
    data: str | None
    """DVC's md5 of the data."""
    evaluate_section: dict[str, Any]
    """Of params.yaml."""
    metrics: dict[str, float]
    error: str
    """DVC's message, or empty."""

    @property
    def evaluate(self) -> dict[str, str]:
        """The evaluate section, with names and values as MLflow writes params."""
        section = flatten({"evaluate": self.evaluate_section})
        return {name: str(value) for name, value in section.items()}


def experiment_table() -> str:
    """Returns the rows of `dvc exp show`, each with the MLflow run of the same result.

    An experiment that DVC took from its run cache has no run of its own, and shows the run that
    made the result. Raises UserError when `dvc exp show` fails or the tracker cannot be reached.
    """
    experiments = list(experiment_rows(exp_show()))  # first: it fails outside a repository
    runs = result_runs()
    lines = [HEADER] + [table_cells(row, matching_run(row, runs)) for row in experiments]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = [[c.ljust(w) for c, w in zip(line, widths, strict=True)] for line in lines]
    return "\n".join("  ".join(line).rstrip() for line in padded) + "\n"


def exp_show() -> Any:
    """The output of `dvc exp show --json`. Raises UserError with DVC's message when it fails."""
    command = [sys.executable, "-m", "dvc", "exp", "show", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip() or "no message").splitlines()[-1]
        raise UserError(f"dvc exp show: {last}; run from the repository's root, after `dvc repro`")
    return json.loads(done.stdout)


def experiment_rows(shown: Any) -> Iterator[ExperimentRow]:
    """The rows of `dvc exp show --json` in DVC's order: each commit, then its experiments."""
    for commit in shown:
        yield parse_experiment(commit)
        for group in commit.get("experiments") or []:
            for experiment in group.get("revs") or [group]:
                yield parse_experiment(experiment)


def parse_experiment(shown: dict[str, Any]) -> ExperimentRow:
    params = _section(shown, "data", "params", "params.yaml", "data")
    metrics = _section(shown, "data", "metrics", METRICS, "data")
    return ExperimentRow(
        name=shown.get("name") or shown["rev"],
        revision="-" if shown["rev"] == "workspace" else shown["rev"][:7],
        adapter=_section(shown, "data", "outs", ADAPTER).get("hash"),
        data=_section(shown, "data", "deps", "data").get("hash"),
        evaluate_section=_section(params, "evaluate"),
        metrics=flatten(metrics),
        error=" ".join(str(_section(shown, "error").get("msg", "")).split()),
    )


def _section(values: Any, *keys: str) -> dict[str, Any]:
    """The section at the end of `keys`; empty without one: a commit's files may hold anything."""
    for key in keys:
        values = values.get(key) if isinstance(values, dict) else None
    return values if isinstance(values, dict) else {}


def result_runs() -> list[Any]:
    """MLflow's runs with an evaluation, oldest first. Raises UserError without the tracker."""
    try:
        client, experiment = connect()
        runs = client.search_runs([experiment], "tags.key.result != ''", order_by=["start_time"])
    except Exception as error:  # a tracker can raise anything
        raise unreachable(error) from None
    return list(runs)


def matching_run(row: ExperimentRow, runs: list[Any]) -> Any:
    """The run with the same adapter, data and evaluate section, or None."""
    for run in runs:
        tags, params = run.data.tags, run.data.params
        same = tags.get("adapter_md5") == row.adapter and tags.get("data_md5") == row.data
        if same and all(params.get(name) == value for name, value in row.evaluate.items()):
            return run
    return None


def table_cells(row: ExperimentRow, run: Any) -> tuple[str, ...]:
    figures = [str(row.metrics.get(metric, "-")) for metric in ("mae", "rmse")]
    name, run_id = (run.info.run_name, run.info.run_id[:8]) if run else ("-", "-")
    adapter = (row.adapter or "-")[:8]
    return (row.name, row.revision, adapter, *figures, name, run_id, status_note(row, run))


def status_note(row: ExperimentRow, run: Any) -> str:
    """The last cell: why there is no run, or how the run and its tags differ from the row."""
    if run is None:
        is_evaluated = row.adapter and row.metrics
        return "no run of these settings" if is_evaluated else row.error or "not run"
    wrong = wrong_tags(row, run)
    if wrong:
        return f"{wrong}; run `dvc repro -f -s evaluate`"
    metrics = metric_names(row.metrics)
    different = [k for k, v in metrics.items() if run.data.metrics.get(k) != v]
    if different:
        return f"differs in {', '.join(different[:3])}"
    return "" if run.info.run_name == row.name else "the same result"


def wrong_tags(row: ExperimentRow, run: Any) -> str:
    """Which tags do not fit the row, or empty. With such tags, MLflow's table of results does not
    show the run, or shows it with another adapter.
    """
    tags = run.data.tags
    if tags.get("stage") != "result":
        return f"its tag stage is {tags.get('stage', 'missing')}, not result"
    key = result_key(tags.get("adapter", ""), row.evaluate_section, tags.get("data_md5", ""))
    if tags["key.result"] != key:
        return f"its tag adapter is {tags.get('adapter', 'missing')[:8]}, not the evaluated adapter"
    return ""
