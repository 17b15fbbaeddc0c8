"""The MLflow store: its address, its creation, and its repair after the repository has moved."""

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
# The table at #/experiments/ID/runs?viewStateShareKey=results, in the format of MLflow's web page.
VIEW_STATE = {
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
# sqlite:///mlflow.db, file:mlruns, mlruns; not sqlite:////tmp/mlflow.db, sqlite:///:memory:, http://
RELATIVE_STORE = re.compile(r"(sqlite(?:\+\w+)?:///|file:|)(?![/:]|file:)([^:?]+(?:\?.*)?)")
HOSTED_STORES = {"databricks", "databricks-uc", "uc"}
# MLflow's messages; the second is of a server that is not MLflow, or of MLflow under another path
DELETED = re.compile(r"The (?P<kind>experiment|run) (?P<id>\w+) must be in the 'active' state")
FOREIGN_ANSWER = re.compile(
    r"failed with error code (?P<status>30\d|404|405)|not in a valid JSON format"
    r"|INTERNAL_ERROR: Response: (?=.*Not Found)"
)
SERVER_ERROR = re.compile(r"(?:error code |too many )(?P<status>5\d\d)")
ARTIFACT_PATH_COLUMNS = (  # tables and columns in which MLflow stores absolute artifact paths
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)


def tracking_uri() -> str:
    """MLFLOW_TRACKING_URI, or the local SQLite store if that is not set."""
    uri = os.environ.get("MLFLOW_TRACKING_URI", "").strip()
    return anchored(uri) if uri else f"sqlite:///{database_path()}"


def registry_uri() -> str:
    """MLFLOW_REGISTRY_URI, or the address of the tracking store if that is not set."""
    uri = os.environ.get("MLFLOW_REGISTRY_URI", "").strip()
    return anchored(uri) if uri else tracking_uri()


def anchored(uri: str) -> str:
    """`uri` with a relative path made absolute: it starts at the repository.

    Otherwise a stage in a temporary workspace would log there, and DVC deletes the workspace.
    """
    match = RELATIVE_STORE.fullmatch(uri)
    if match is None or uri in HOSTED_STORES:
        return uri
    scheme, path = match.groups()
    return f"{scheme}{os.path.normpath(state_root() / path)}"


def masked(text: str) -> str:
    """`text` without the user names and passwords in its URLs."""
    return re.sub(r"(?<=://)[^/\s]+@", "", text)


def experiment_name() -> str:
    """MLFLOW_EXPERIMENT_NAME, or our own name if that is not set."""
    return os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT


def unreachable(error: Exception) -> UserError:
    """The error that a command shows when the tracker cannot be used."""
    if isinstance(error, UserError):
        return error
    uri, reason = tracking_uri(), " ".join(str(error).split())[:200]
    if uri.startswith("sqlite"):
        problem = f"cannot be opened ({reason}); correct or unset MLFLOW_TRACKING_URI"
    else:
        problem = f"cannot be reached ({reason}); start it, or unset MLFLOW_TRACKING_URI"
    problem = known_problem(error) or f"{problem} for the local store"
    return UserError(masked(f"{uri}: {problem}"))


def failure_reason(error: Exception) -> str:
    """Why a call to the tracker failed, in one line, with the remedy if that is known."""
    return masked(known_problem(error) or " ".join(str(error).split())[:200])


def known_problem(error: Exception) -> str | None:
    """A problem of the address, the login or a deleted experiment, and the remedy; else None."""
    text = " ".join(str(error).split())
    if deleted := DELETED.search(text):
        return deleted_problem(deleted["kind"], deleted["id"])
    if "unsupported URI" in text or "Could not parse SQLAlchemy URL" in text:
        return (
            "is not an address that MLflow knows; set MLFLOW_TRACKING_URI to one like "
            "http://HOST:5000 or sqlite:///mlflow.db"
        )
    if "out-of-date database schema" in text or "Can't locate revision" in text:
        return (
            "was written by another version of MLflow; copy the database, then run "
            f"`mlflow db upgrade {tracking_uri()}`, or move it away"
        )
    if "filesystem tracking backend" in text:
        return (
            "is a folder of files, which this MLflow no longer writes; set MLFLOW_TRACKING_URI to "
            "a database, for example sqlite:///mlflow.db"
        )
    if getattr(error, "error_code", None) in {"UNAUTHENTICATED", "PERMISSION_DENIED"}:
        return (
            "refuses access; set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or "
            "MLFLOW_TRACKING_TOKEN"
        )
    if failed := SERVER_ERROR.search(text):
        return f"answers with an error ({failed['status']}); read the log of the server"
    answer = FOREIGN_ANSWER.search(text)
    if answer:
        status = f" ({answer['status']})" if answer["status"] else ""
        return (
            f"answers, but not as MLflow{status}; the address is wrong: correct the host, the port "
            "and the path in MLFLOW_TRACKING_URI"
        )
    return None


def deleted_problem(kind: str, identifier: str) -> str:
    """`kind` is experiment or run."""
    store = (
        "" if os.environ.get("MLFLOW_TRACKING_URI") else f"MLFLOW_TRACKING_URI={tracking_uri()} "
    )
    name = (
        f"the experiment {experiment_name()}" if kind == "experiment" else f"the run {identifier}"
    )
    return (
        f"{name} is deleted; restore it with `{store}mlflow {kind}s restore --{kind}-id "
        f"{identifier}`, or set MLFLOW_EXPERIMENT_NAME to another name"
    )


def database_path() -> Path:
    return state_root() / "mlflow.db"


def store_lock() -> FileLock:
    """The lock for creating or repairing the store, and for changing aliases in the registry."""
    return FileLock(state_root() / "mlflow.db.lock")


def connect() -> tuple[Any, str]:
    """Returns an MLflow client and the id of our experiment. Creates the store on first use.

    Raises UserError when the experiment is deleted, or the store cannot be opened in this folder.
    """
    _require_openable(tracking_uri())
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    import mlflow

    uri = tracking_uri()  # mlflow.set_tracking_uri would change the environment of child processes
    with store_lock():
        is_local = uri == f"sqlite:///{database_path()}"
        if is_local and not database_path().exists():
            create_database()
        client = mlflow.MlflowClient(uri, registry_uri())
        experiment = client.get_experiment_by_name(experiment_name())
        if experiment is None:
            return client, create_experiment(client, uri)
        if experiment.lifecycle_stage == "deleted":
            problem = deleted_problem("experiment", experiment.experiment_id)
            raise UserError(masked(f"{uri}: {problem}"))
        if is_local:
            repair_moved_store(experiment.artifact_location)
        return client, str(experiment.experiment_id)


def _require_openable(uri: str) -> None:
    """Raises UserError if the file of an SQLite store is something else, or if the repository's
    path is another path as a part of `uri`. MLflow would wait for minutes.
    """
    root, path = str(state_root()), sqlite_file(uri)
    if path is None:
        return
    if path.is_file() and path.stat().st_size and not _is_sqlite(path):
        raise UserError(
            f"{path}: is not an SQLite database. Move the file away, or correct "
            "MLFLOW_TRACKING_URI."
        )
    if root in uri and ("?" in root or unquote(root) != root):
        raise UserError(
            f"{root}: MLflow cannot open a database in a folder with % and digits or with ? in its "
            "name. Rename the folder."
        )


def _is_sqlite(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(16) == b"SQLite format 3\0"


def sqlite_file(uri: str) -> Path | None:
    """The file of an SQLite store; None for another store."""
    scheme, _, path = uri.partition(":///")
    return Path(path.partition("?")[0]) if scheme.startswith("sqlite") and path else None


def create_database() -> None:
    """Creates the SQLite store under a temporary name and renames it when it is complete.

    MLflow cannot open a store whose creation was interrupted.
    """
    import mlflow

    path = database_path()
    partial = path.with_name(f".{path.name}.partial")
    for leftover in partial.parent.glob(f"{partial.name}*"):
        leftover.unlink()
    uri = f"sqlite:///{partial}"
    create_experiment(mlflow.MlflowClient(uri, uri), uri)
    partial.rename(path)


def create_experiment(client: Any, uri: str) -> str:
    """Creates our experiment and returns its id."""
    is_local = uri.startswith("sqlite:")
    location = (state_root() / ARTIFACTS).as_uri() if is_local else None
    tags = {
        "mlflow.experimentKind": "custom_model_development",
        f"mlflow.sharedViewState.{VIEW}": json.dumps(VIEW_STATE),
    }
    return str(client.create_experiment(experiment_name(), artifact_location=location, tags=tags))


def is_reachable(timeout: float) -> bool:
    """Whether the store answers within `timeout` seconds: SQLite takes a write lock, a server
    answers /health. True for other kinds of store, which are not checked.
    """
    uri = tracking_uri()
    path = Path(uri.removeprefix("sqlite:///"))
    try:
        if uri.startswith("sqlite:///") and path.exists():
            with closing(sqlite3.connect(path, timeout=timeout)) as connection:
                connection.execute("BEGIN IMMEDIATE")
        elif uri.startswith("http"):
            urlopen(f"{masked(uri).rstrip('/')}/health", timeout=timeout).close()
    except HTTPError:  # an answer too
        return True
    except (sqlite3.Error, OSError, HTTPException):
        return False
    return True


def repair_moved_store(location: str) -> None:
    """Corrects artifact paths when the repository has moved: the folder at `location`, a file URL,
    is gone and ours exists. When both exist, the repository may be a copy: prints a hint instead.
    """
    recorded, current = Path(unquote(urlparse(location).path)), state_root() / ARTIFACTS
    if recorded == current or recorded.name != ARTIFACTS:
        return
    if current.exists() and not recorded.exists():
        rewrite_artifact_paths(location, current.as_uri())
    else:
        sys.stderr.write(
            f"tracking: {database_path()} keeps its artifacts in {recorded}; if the repository was "
            "copied from there, run `llava-dvc runs --relocate`\n"
        )


def relocate() -> str:
    """Points the local store to the artifacts of this repository. Returns a message for the user.

    Raises UserError when there is no local store.
    """
    path, artifacts = database_path(), state_root() / ARTIFACTS
    if not path.is_file():
        is_remote = os.environ.get("MLFLOW_TRACKING_URI")
        hint = ", MLFLOW_TRACKING_URI names a server" if is_remote else ""
        raise UserError(f"{path}: not found; nothing has been logged here yet{hint}")
    with store_lock():
        recorded = read_artifact_location(path)
        if recorded == artifacts.as_uri():
            return f"{path} keeps its artifacts in {artifacts} already"
        changed = rewrite_artifact_paths(recorded, artifacts.as_uri())
    return f"{path}: {changed} paths now lead to {artifacts}"


def read_artifact_location(database: Path) -> str:
    """The URL of our experiment's artifacts. Raises UserError when there is no experiment."""
    with closing(sqlite3.connect(database)) as connection:
        query = "SELECT artifact_location FROM experiments WHERE name = ?"
        row = connection.execute(query, (experiment_name(),)).fetchone()
    if row is None:
        raise UserError(f"{database}: contains no experiment {experiment_name()}; run `dvc repro`")
    return str(row[0])


def rewrite_artifact_paths(old: str, new: str) -> int:
    """Replaces the prefix `old` of artifact paths by `new` in one transaction. Returns how many
    paths changed.
    """
    changed = 0
    with closing(sqlite3.connect(database_path())) as connection, connection:
        for table, column in ARTIFACT_PATH_COLUMNS:
            changed += connection.execute(
                f"UPDATE {table} SET {column} = ? || substr({column}, ?) "
                f"WHERE {column} = ? OR substr({column}, 1, ?) = ?",
                (new, len(old) + 1, old, len(old) + 1, f"{old}/"),
            ).rowcount
    return changed
