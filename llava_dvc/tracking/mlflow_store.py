"""The MLflow store: where it is, made once, and mended after the repository has moved."""

import json
import os
import re
import sqlite3
import sys
from contextlib import closing
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import unquote, urlparse
from urllib.request import urlopen

from filelock import FileLock

from llava_dvc.errors import UserError
from llava_dvc.files import state_root

EXPERIMENT = "llava-dvc"
ARTIFACTS = "mlartifacts"
VIEW = "results"
COLUMNS = {  # of the table at #/experiments/ID/runs?viewStateShareKey=results, as MLflow names them
    "searchFilter": "tags.stage = 'result'",
    "orderByKey": "metrics.`mae`",
    "orderByAsc": True,
    "startTime": "ALL",
    "lifecycleFilter": "Active",
    "modelVersionFilter": "All Runs",
    "datasetsFilter": [],
    "selectedColumns": [
        "attributes.`Models`",
        *(f"metrics.`{name}`" for name in ("mae", "mae_ci_low", "mae_ci_high", "rmse", "accuracy")),
        *(f"params.`{name}`" for name in ("train.learning_rate", "evaluate.decode")),
    ],
}
PATHS = (  # where MLflow writes down absolute artifact paths
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)


def tracking_uri() -> str:
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{database()}"


def masked(text: str) -> str:
    """`text` less the names and passwords in its addresses."""
    return re.sub(r"(?<=://)[^/\s]+@", "", text)


def lost(error: Exception) -> UserError:
    """What to say when the tracker does not answer a person's command."""
    reason = " ".join(str(error).split())[:200]
    return UserError(
        masked(
            f"{tracking_uri()}: cannot be reached ({reason}); start it, or unset "
            "MLFLOW_TRACKING_URI for the local store"
        )
    )


def database() -> Path:
    return state_root() / "mlflow.db"


def lock() -> FileLock:
    """Held by whoever makes or mends the store, or settles the registry's aliases."""
    return FileLock(state_root() / "mlflow.db.lock")


def connect() -> tuple[Any, str]:
    """A client of the store and our experiment's id; the store is made on first use, by one process
    at a time.
    """
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    import mlflow

    uri = tracking_uri()  # not mlflow.set_tracking_uri: it sets the variable for all that follows
    with lock():
        local = uri == f"sqlite:///{database()}"
        if local and not database().exists():
            make_database()
        client = mlflow.MlflowClient(uri)
        experiment = client.get_experiment_by_name(EXPERIMENT)
        if experiment:
            if local:
                follow(experiment.artifact_location)
            return client, str(experiment.experiment_id)
        return client, create_experiment(client, uri)


def make_database() -> None:
    """Under another name until it is whole: MLflow cannot open a store whose making was killed."""
    import mlflow

    partial = database().with_name(f".{database().name}.partial")
    for left in partial.parent.glob(f"{partial.name}*"):
        left.unlink()
    uri = f"sqlite:///{partial}"
    create_experiment(mlflow.MlflowClient(uri, uri), uri)
    partial.rename(database())


def create_experiment(client: Any, uri: str) -> str:
    """Returns its id."""
    local = uri.startswith("sqlite:")
    location = (state_root() / ARTIFACTS).as_uri() if local else None
    tags = {
        "mlflow.experimentKind": "custom_model_development",
        f"mlflow.sharedViewState.{VIEW}": json.dumps(COLUMNS),
    }
    return str(client.create_experiment(EXPERIMENT, artifact_location=location, tags=tags))


def answers(seconds: float) -> bool:
    """Whether the store takes a write within so many seconds; True where there is no telling."""
    uri = tracking_uri()
    path = Path(uri.removeprefix("sqlite:///"))
    try:
        if uri.startswith("sqlite:///") and path.exists():
            with closing(sqlite3.connect(path, timeout=seconds)) as connection:
                connection.execute("BEGIN IMMEDIATE")
        elif uri.startswith("http"):
            urlopen(f"{masked(uri).rstrip('/')}/health", timeout=seconds).close()
    except HTTPError:
        return True
    except (sqlite3.Error, OSError, HTTPException):
        return False
    return True


def follow(location: str) -> None:
    """Mend the store when its artifacts' folder is gone and ours is there: the repository was
    moved. When both are there it may be a copy: that is for a person to say.
    """
    there, here = Path(unquote(urlparse(location).path)), state_root() / ARTIFACTS
    if there == here:
        return
    if here.exists() and not there.exists():
        rewrite(location, here.as_uri())
    else:
        sys.stderr.write(
            f"tracking: {database()} keeps its artifacts in {there}; if the repository was copied "
            "from there, run `llava-dvc runs --relocate`\n"
        )


def relocate() -> str:
    """Point the local store at this repository's artifacts; says what was mended. Raises UserError
    when there is no local store.
    """
    if not database().is_file():
        raise UserError(
            f"{database()}: not found; nothing has been logged here yet"
            + (
                ", MLFLOW_TRACKING_URI names a server"
                if os.environ.get("MLFLOW_TRACKING_URI")
                else ""
            )
        )
    with lock(), closing(sqlite3.connect(database())) as connection:
        query = "SELECT artifact_location FROM experiments WHERE name = ?"
        row = connection.execute(query, (EXPERIMENT,)).fetchone()
    if row is None:
        raise UserError(f"{database()}: holds no experiment {EXPERIMENT}; run `dvc repro`")
    here = (state_root() / ARTIFACTS).as_uri()
    if row[0] == here:
        return f"{database()} keeps its artifacts in {state_root() / ARTIFACTS} already"
    with lock():
        changed = rewrite(row[0], here)
    return f"{database()}: {changed} paths now lead to {state_root() / ARTIFACTS}"


def rewrite(old: str, new: str) -> int:
    """Replace the start `old` of every artifact path by `new`, all or none; returns how many."""
    changed = 0
    with closing(sqlite3.connect(database())) as connection, connection:
        for table, column in PATHS:
            changed += connection.execute(
                f"UPDATE {table} SET {column} = ? || substr({column}, ?) "
                f"WHERE {column} = ? OR substr({column}, 1, ?) = ?",
                (new, len(old) + 1, old, len(old) + 1, f"{old}/"),
            ).rowcount
    return changed
