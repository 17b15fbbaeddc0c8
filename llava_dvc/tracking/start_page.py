"""The page that `make ui` opens: links to the results in MLflow and TensorBoard.

python -m llava_dvc.tracking.start_page write   # before the servers start
python -m llava_dvc.tracking.start_page open    # when they answer: prints and opens the page
"""

import html
import json
import os
import re
import socket
import sys
import time
import webbrowser
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlparse

from llava_dvc.exit_line import exit_with_one_line
from llava_dvc.files import new_file, state_root
from llava_dvc.tracking.description import NOTE, describe_all
from llava_dvc.tracking.mlflow_store import VIEW, VIEW_STATE, connect, unreachable

MLFLOW, TENSORBOARD = "http://127.0.0.1:5000", "http://127.0.0.1:6006"
CURVES = "^(train/(?!seconds)|val/)"
"""The tags in TensorBoard that are curves. Older runs also have figures of one step."""
PATIENCE = 120  # seconds until the servers answer
HEAD = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>llava-dvc</title>
<meta name="viewport" content="width=device-width">
<style>
body { font: 17px/1.5 system-ui, sans-serif; max-width: 44rem; margin: 3rem auto; padding: 0 1rem }
a { font-weight: 600 } li { margin: 1rem 0 } p { white-space: pre-line } .note { color: #555 }
</style>
"""


def main() -> None:
    with exit_with_one_line("make ui"):
        if sys.argv[1] == "write":
            write_page()
        else:
            open_page()


def page_file() -> Path:
    return state_root() / ".cache" / "results.html"


def write_page() -> None:
    """Writes the page, the columns of the table in MLflow, and descriptions that are missing.

    Raises UserError when the store cannot be used.
    """
    try:
        client, experiment = connect()
        tag = f"mlflow.sharedViewState.{VIEW}"
        client.set_experiment_tag(experiment, tag, json.dumps(VIEW_STATE))
        describe_all(client, experiment)
        order = ["metrics.mae ASC"]
        runs = client.search_runs([experiment], VIEW_STATE["searchFilter"], order_by=order)
    except Exception as error:  # a store can raise anything
        raise unreachable(error) from None
    path = page_file()
    path.parent.mkdir(exist_ok=True)
    with new_file(path) as partial:
        partial.write_text(page_text(experiment, list(runs)), encoding="utf-8")


def addresses(experiment: str) -> dict[str, tuple[str, str]]:
    """By the name of each link: its address, and what is there."""
    from llava_dvc.tracking.registry import MODEL  # imports scikit-learn

    training = "workflowType=machine_learning"  # otherwise MLflow shows its pages for chats
    table = f"{MLFLOW}/#/experiments/{experiment}/runs?viewStateShareKey={VIEW}&{training}"
    return {
        "Results": (table, "one row a result in MLflow, the least error first"),
        "Model": (
            f"{MLFLOW}/#/models/{MODEL}?{training}",
            "the adapters as versions of a registered model, and which one counts best",
        ),
        "Curves": (
            f"{TENSORBOARD}/?tagFilter={quote(CURVES)}#timeseries",
            "loss and validation error in TensorBoard; its page HPARAMS has a table of results",
        ),
    }


def page_text(experiment: str, results: list[Any]) -> str:
    """The HTML. `results` are mlflow.entities.Run, the best first."""
    links = [
        f'<li><a href="{html.escape(address)}">{name}</a>: {text}.'
        for name, (address, text) in addresses(experiment).items()
    ]
    if results:
        best = results[0]
        name, text = (html.escape(t) for t in (best.info.run_name, best.data.tags.get(NOTE, "")))
        last = f"<h2>The least error: {name}</h2>\n<p>{text}</p>"
    else:
        last = "<p>There is no result yet. Run <code>make repro</code>, then load this page again."
    note = '<p class="note">The links work as long as <code>make ui</code> runs.'
    body = ["<h1>llava-dvc</h1>\n<ul>", *links, f"</ul>\n{note}", last]
    return HEAD + "\n".join(body) + "\n"


def open_page() -> None:
    """Waits for the servers, prints the address of the page, and opens it if there is a screen."""
    deadline = time.monotonic() + PATIENCE
    while not all(map(answers, (MLFLOW, TENSORBOARD))) and time.monotonic() < deadline:
        time.sleep(0.3)
    sys.stdout.write(f"\nStart page: {page_file().as_uri()}\n")
    page = page_file().read_text(encoding="utf-8")
    for address, name in re.findall('<a href="([^"]+)">([^<]+)', page):
        sys.stdout.write(f"{name}: {html.unescape(address)}\n")
    sys.stdout.flush()
    if sys.platform == "darwin" or {"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys():
        webbrowser.open(page_file().as_uri())  # without a screen it would start a text browser


def answers(url: str) -> bool:
    place = urlparse(url)
    with socket.socket() as connection:
        connection.settimeout(1)
        return connection.connect_ex((place.hostname or "", place.port or 80)) == 0


if __name__ == "__main__":
    main()
