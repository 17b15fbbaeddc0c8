"""The table of `llava-dvc runs`: which experiment counts best, and what was different in it."""

import json
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from io import StringIO
from math import inf
from typing import Any

from rich.console import Console
from rich.table import Table

from llava_dvc.config import flatten
from llava_dvc.errors import UserError, few_frames, printable_text
from llava_dvc.pipeline_file import PIPELINE, declared_paths
from llava_dvc.tracking.mlflow_run import metric_names
from llava_dvc.tracking.mlflow_store import connect, unreachable
from llava_dvc.tracking.provenance import recorded_md5
from llava_dvc.tracking.registry import NOT_COMPARABLE, verdicts
from llava_dvc.tracking.run import TRAINING_SECONDS, result_key

ADAPTER = "models/adapter"
METRICS = "metrics/evaluate.json"
WORKSPACE = "workspace"
OTHER_FRAMES = "on other frames:"
COLUMNS = {
    "experiment,\nMLflow run": 16,
    "MAE (95 %)": 16,
    "smoothed": 8,
    "seconds": 7,
    "changed settings": 22,
    "against the champion": 21,
}
"""The columns of the table and their widths. Longer cells are broken into lines."""
WIDTH = sum(COLUMNS.values()) + 2 * (len(COLUMNS) - 1)


@dataclass(frozen=True)
class ExperimentRow:
    """A row of `dvc exp show`."""

    name: str
    revision: str
    adapter: str | None
    """DVC's md5 of the adapter; None when the experiment has not run."""
    data: str | None
    """DVC's md5 of the data."""
    settings: dict[str, Any]
    """All of params.yaml."""
    metrics: dict[str, float]
    error: str
    """DVC's message, or empty."""

    @property
    def evaluate_section(self) -> dict[str, Any]:
        return _section(self.settings, "evaluate")

    @property
    def evaluate(self) -> dict[str, str]:
        """The evaluate section, with names and values as MLflow writes params."""
        section = flatten({"evaluate": self.evaluate_section})
        return {name: str(value) for name, value in section.items()}


NO_ROW = ExperimentRow("", "", None, None, {}, {}, "")


def experiment_table() -> str:
    """Returns the rows of `dvc exp show`, each with the MLflow run of the same result.

    Results on the frames of the workspace come first, the least MAE first, then those on other
    frames. An experiment that DVC took from its run cache has no run of its own, and shows the run
    that made the result. Raises UserError when `dvc exp show` fails or the tracker cannot be
    reached.
    """
    experiments = list(experiment_rows(exp_show()))  # first: it fails outside a repository
    runs = result_runs()
    pairs = [(row, matching_run(row, runs)) for row in experiments]
    said = verdicts_of([run for _, run in pairs if run])
    committed = next((row for row in experiments if row.name != WORKSPACE), NO_ROW)
    pairs.sort(key=lambda pair: pair[0].metrics.get("mae", float("inf")))
    seconds = training_seconds(runs)
    here = frames_here(experiments)
    cells: tuple[list[tuple[str, ...]], list[tuple[str, ...]]] = ([], [])
    for row, run in pairs:
        cells[is_other(row, here)].append(table_cells(row, run, committed, said, seconds))
    heading = [(OTHER_FRAMES,)] if cells[1] else []
    ours = [row for row in experiments if row.metrics and not is_other(row, here)]
    verdicts_here = [said.get(run.info.run_id) for row, run in pairs if run and row in ours]
    notes = table_notes(ours, NOT_COMPARABLE in verdicts_here)
    return drawn_table([*cells[0], *heading, *cells[1]]) + notes


def frames_here(experiments: Sequence[ExperimentRow]) -> tuple[Any, ...]:
    """What decides the evaluation frames of the workspace, as `evaluated_frames`."""
    workspace = next((row for row in experiments if row.name == WORKSPACE), experiments[0])
    data = recorded_md5(declared_paths()["data"]) if PIPELINE.is_file() else None
    return evaluated_frames(replace(workspace, data=data or workspace.data))


def evaluated_frames(row: ExperimentRow) -> tuple[Any, ...]:
    """What decides which frames and labels a result was evaluated on."""
    split, rules = (_section(row.settings, name) for name in ("split", "data"))
    chosen = [split.get(name) for name in ("strategy", "eval", "train_until")]
    seed = None if split.get("strategy") == "temporal" else row.settings.get("seed")
    return (row.data, *chosen, seed, rules.get("zone"), rules.get("exclude"))


def is_other(row: ExperimentRow, here: tuple[Any, ...]) -> bool:
    """Whether a row is of other frames than `here`. One without data has no result."""
    return row.data is not None and evaluated_frames(row) != here


def table_notes(ours: Sequence[ExperimentRow], is_champion_elsewhere: bool) -> str:
    """Lines below the table. `ours` are the rows with a result on the frames of the workspace."""
    notes = [few_frames(min((row.metrics.get("frames", inf) for row in ours), default=inf))]
    if not ours:
        notes.append("No result on the frames in data/ yet: run `dvc repro`.")
    if is_champion_elsewhere:
        notes.append(
            "The champion was evaluated on other frames and cannot be compared with these results. "
            "It stays until you name another: docs/experiments.md, section The registry."
        )
    lines = [textwrap.fill(note, WIDTH) for note in notes if note]
    return "".join(f"\n{line}\n" for line in lines)


def drawn_table(rows: Sequence[Sequence[str]]) -> str:
    """The table as plain text, WIDTH columns wide."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name, width in COLUMNS.items():
        table.add_column(name, width=width, overflow="fold")
    for row in rows:
        table.add_row(*map(printable_text, row))
    text = StringIO()
    Console(file=text, width=WIDTH, markup=False, highlight=False).print(table)
    return "".join(f"{line.rstrip()}\n" for line in text.getvalue().splitlines())


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
        settings=params,
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


def verdicts_of(runs: list[Any]) -> dict[str, str]:
    """`verdicts`. Raises UserError without the tracker."""
    try:
        return verdicts(runs)
    except Exception as error:  # a tracker can raise anything
        raise unreachable(error) from None


def training_seconds(runs: list[Any]) -> dict[str, float | None]:
    """Of each run by its id. A second evaluation of an adapter has the seconds of its training."""
    own = {run.info.run_id: run.data.metrics.get(TRAINING_SECONDS) for run in runs}
    trainings = {run.info.run_id: run.data.tags.get("training_run") for run in runs}
    return {run_id: own.get(trainings[run_id] or run_id) for run_id in own}


def table_cells(
    row: ExperimentRow,
    run: Any,
    committed: ExperimentRow,
    said: Mapping[str, str],
    seconds: Mapping[str, float | None],
) -> tuple[str, ...]:
    """`committed` is the row of the last commit; `said` and `seconds` are by a run's id."""
    name, verdict, took = row.name, "", None
    if run:
        name = name if run.info.run_name == name else f"{name}\n{run.info.run_name}"
        took = seconds.get(run.info.run_id)
        verdict = said.get(run.info.run_id, "")
    smoothed = _rounded(row.metrics.get("mae_smoothed"))
    last = "; ".join(filter(None, (verdict, status_note(row, run, committed))))
    changed = changed_settings(row, committed.settings)
    return (name, mae_cell(row), smoothed, _rounded(took, 0), changed, last)


def mae_cell(row: ExperimentRow) -> str:
    """`2.02 (1.42-2.63)`; `-` without an evaluation."""
    low, high = (row.metrics.get(f"mae_ci_{end}") for end in ("low", "high"))
    interval = f" ({_rounded(low)}-{_rounded(high)})" if low is not None else ""
    return f"{_rounded(row.metrics.get('mae'))}{interval}"


def changed_settings(row: ExperimentRow, committed: Mapping[str, Any]) -> str:
    """What is not as in the last commit, a setting a line."""
    before = flatten(dict(committed))
    changed = {n: v for n, v in flatten(row.settings).items() if before.get(n, v) != v}
    return "\n".join(f"{name} {json.dumps(value)}" for name, value in changed.items()) or "-"


def _rounded(value: Any, digits: int = 2) -> str:
    return f"{value:.{digits}f}" if isinstance(value, int | float) else "-"


def status_note(row: ExperimentRow, run: Any, committed: ExperimentRow = NO_ROW) -> str:
    """Why there is no run, or how the run and its tags differ from the row; else empty."""
    if run is None:
        if not (row.adapter and row.metrics):
            return row.error or "not run"
        is_committed = (row.adapter, row.metrics) == (committed.adapter, committed.metrics)
        return "as committed, not run here" if is_committed else "no run of these settings"
    wrong = wrong_tags(row, run)
    if wrong:
        return f"{wrong}; run `dvc repro -f -s evaluate`"
    metrics = metric_names(row.metrics)
    different = [k for k, v in metrics.items() if run.data.metrics.get(k) != v]
    if different:
        return f"its run differs in {', '.join(different[:3])}"
    return ""


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
