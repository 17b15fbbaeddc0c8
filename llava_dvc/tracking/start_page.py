"""The page that `make ui` opens: links to the results in MLflow and TensorBoard."""

import html
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from llava_dvc.files import new_file, state_root
from llava_dvc.masking import without_logins
from llava_dvc.pipeline_file import PIPELINE, declared_paths
from llava_dvc.tracking.description import NOTE, describe_all
from llava_dvc.tracking.mlflow_store import connect, registry_uri, tracking_uri, unreachable
from llava_dvc.tracking.provenance import recorded_md5
from llava_dvc.tracking.results_table import VIEW, VIEW_STATE

MLFLOW, TENSORBOARD = "http://127.0.0.1:5000", "http://127.0.0.1:6006"
"""Where `make ui` starts its servers."""
TRAINING = "workflowType=machine_learning"
"""Without this, MLflow shows its pages for chats."""
CURVES = "^(train/loss|val/mae)$"
"""The tags that TensorBoard shows first: two curves side by side. It sorts them by name."""
HEAD = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>llava-dvc</title>
<meta name="viewport" content="width=device-width">
<style>
body { font: 17px/1.5 system-ui, sans-serif; max-width: 44rem; margin: 3rem auto; padding: 0 1rem }
a { font-weight: 600 } li { margin: 1rem 0 } p { white-space: pre-line } .note { color: #555 }
</style>
"""


def page_file() -> Path:
    return state_root() / ".cache" / "results.html"


def write_page() -> None:
    """Writes the page, the columns of the table in MLflow, and descriptions that are missing.

    Raises UserError when the store cannot be used.
    """
    try:
        client, experiment = connect()
        describe_all(client, experiment)
        order = ["metrics.mae ASC"]
        results = client.search_runs([experiment], VIEW_STATE["searchFilter"], order_by=order)
        ours, others = on_these_frames(results)
        for name, state in views(ours if others else []).items():
            tag = f"mlflow.sharedViewState.{name}"
            client.set_experiment_tag(experiment, tag, json.dumps(state))
    except Exception as error:  # a store can raise anything
        raise unreachable(error) from None
    path = page_file()
    path.parent.mkdir(exist_ok=True)
    with new_file(path) as partial:
        partial.write_text(page_text(experiment, ours, others), encoding="utf-8")


def on_these_frames(results: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """The results on the data that data/ holds, and the others."""
    md5 = recorded_md5(declared_paths()["data"]) if PIPELINE.is_file() else None
    if md5 is None:
        return list(results), []
    ours = [run for run in results if run.data.tags.get("data_md5") == md5]
    return ours, [run for run in results if run not in ours]


def views(runs: Sequence[Any]) -> dict[str, dict[str, Any]]:
    """The states of MLflow's table by their names: all results, and those on the data of `runs`."""
    states = {VIEW: VIEW_STATE}
    if runs:
        search = f"{VIEW_STATE['searchFilter']} and tags.data_md5 = '{data_of(runs)}'"
        states[view_of(runs)] = VIEW_STATE | {"searchFilter": search}
    return states


def view_of(runs: Sequence[Any]) -> str:
    """Its name has the data, because everyone on a server sees the same views."""
    return f"{VIEW}-{data_of(runs)[:7]}" if runs else VIEW


def data_of(runs: Sequence[Any]) -> str:
    return str(runs[0].data.tags["data_md5"])


def is_server(uri: str) -> bool:
    return uri.startswith(("http://", "https://"))


def mlflow_pages(uri: str) -> str:
    """The address of the pages of a store: its own server, or that of `make ui`."""
    return without_logins(uri).rstrip("/") if is_server(uri) else MLFLOW


def addresses(experiment: str, view: str = VIEW) -> dict[str, tuple[str, str]]:
    """By the name of each link: its address, and what is there."""
    from llava_dvc.tracking.registry import MODEL  # imports scikit-learn

    return {
        "Results": (
            table_address(experiment, view),
            "one row a result in MLflow, the least error first",
        ),
        "Model": (
            f"{mlflow_pages(registry_uri())}/#/models/{MODEL}?{TRAINING}",
            "the adapters as versions of a registered model, and which one counts best",
        ),
        "Curves": (
            f"{TENSORBOARD}/?smoothing=0&tagFilter={quote(CURVES)}#timeseries",
            "loss and validation error in TensorBoard; its page HPARAMS has a table of results",
        ),
    }


def table_address(experiment: str, view: str) -> str:
    table = f"#/experiments/{experiment}/runs?viewStateShareKey={view}&{TRAINING}"
    return f"{mlflow_pages(tracking_uri())}/{table}"


def page_text(experiment: str, results: Sequence[Any], others: Sequence[Any] = ()) -> str:
    """The HTML. `results` are mlflow.entities.Run, the best first; `others` are those on other
    frames.
    """
    view = view_of(results) if others else VIEW
    links = [
        f'<li><a href="{html.escape(address)}">{name}</a>: {text}.'
        for name, (address, text) in addresses(experiment, view).items()
    ]
    end = "The link Curves works" if is_server(tracking_uri()) else "The links work"
    note = f'<p class="note">{end} as long as <code>make ui</code> runs.'
    body = ["<h1>llava-dvc</h1>\n<ul>", *links, f"</ul>\n{note}", best_of(results)]
    if others:
        body.append(others_note(experiment, len(others)))
    return HEAD + "\n".join(body) + "\n"


def best_of(results: Sequence[Any]) -> str:
    """The best of `results`, in HTML, or what to do without any."""
    if not results:
        return (
            "<p>There is no result on the frames in <code>data/</code> yet. Run <code>make "
            "repro</code>, then <code>make ui</code> again."
        )
    best = results[0]
    name, text = (html.escape(t) for t in (best.info.run_name, best.data.tags.get(NOTE, "")))
    return f"<h2>The least error: {name}</h2>\n<p>{text}</p>"


def others_note(experiment: str, number: int) -> str:
    """What is said of the results on other frames, in HTML."""
    address = html.escape(table_address(experiment, VIEW))
    results = "1 result is" if number == 1 else f"{number} results are"
    return (
        f'<p>{results} on other frames and cannot be compared: <a href="{address}">All results</a>.'
    )
