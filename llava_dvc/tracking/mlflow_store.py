"""The MLflow store: its address, its creation, and its repair after the repository has moved."""

import json
import os
import re
import shlex
import sqlite3
import sys
from contextlib import AbstractContextManager, closing
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import unquote, urlparse
from urllib.request import urlopen

from llava_dvc.errors import UserError
from llava_dvc.files import state_root
from llava_dvc.masking import masked, without_logins
from llava_dvc.tracking.results_table import VIEW, VIEW_STATE
from llava_dvc.tracking.state_lock import state_lock
from llava_dvc.tracking.store_faults import (
    faults_explained,
    require_database,
    require_sqlite,
    store_fault,
)

EXPERIMENT = "llava-dvc"
ARTIFACTS = "mlartifacts"
LOCAL_STORE = "sqlite:///mlflow.db"
# sqlite:///mlflow.db, file:mlruns, mlruns; not sqlite:////tmp/mlflow.db, sqlite:///:memory:, http://
RELATIVE_STORE = re.compile(r"(sqlite(?:\+\w+)?:///|file:|)(?![/:]|file:)([^:?]+(?:\?.*)?)")
HOSTED_STORES = {"databricks", "databricks-uc", "uc"}
# MLflow's messages; the second is of a server that is not MLflow, or of MLflow under another path
DELETED = re.compile(r"The (?P<kind>experiment|run) (?P<id>\w+) must be in the 'active' state")
FOREIGN_ANSWER = re.compile(
    r"failed with error code (?P<status>30\d|404|405)|not in a valid JSON format"
    r"|INTERNAL_ERROR: Response: (?=.*Not Found)"
)
OTHER_SCHEMA = re.compile(r"out-of-date database schema \(found version (?P<found>\w+)")
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
    return anchored(os.environ.get("MLFLOW_TRACKING_URI", "").strip() or LOCAL_STORE)


def registry_uri() -> str:
    """MLFLOW_REGISTRY_URI, or the address of the tracking store if that is not set."""
    uri = os.environ.get("MLFLOW_REGISTRY_URI", "").strip()
    return anchored(uri) if uri else tracking_uri()


def anchored(uri: str) -> str:
    """`uri` with a relative path made absolute: it starts at the repository.

    Otherwise a stage in a temporary workspace would log there, and DVC deletes the workspace. In a
    URL the characters %, ? and # of the repository's path must be escaped.
    """
    match = RELATIVE_STORE.fullmatch(uri)
    if match is None or uri in HOSTED_STORES:
        return uri
    scheme, path = match.groups()
    root = re.sub("[%?#]", lambda found: f"%{ord(found[0]):02X}", str(state_root()))
    if scheme == "sqlite:///" and "%" in root:
        scheme = "sqlite+pysqlite:///"  # the same; else MLflow makes a folder with the escaped name
    return f"{scheme}{os.path.normpath(f'{root}/{path}')}"


def sqlite_file(uri: str) -> Path | None:
    """The file of a SQLite store, None for another kind of store."""
    match = re.fullmatch(r"sqlite(?:\+\w+)?:///([^?]+)(?:\?.*)?", uri)
    return Path(unquote(match[1])) if match else None


def experiment_name() -> str:
    """MLFLOW_EXPERIMENT_NAME, or our own name if that is not set."""
    return os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT


def unreachable(error: Exception) -> UserError:
    """The error that a command shows when the tracker cannot be used."""
    if isinstance(error, UserError):
        return error
    uri, reason = tracking_uri(), masked(" ".join(str(error).split()))[:200]
    if uri.startswith("sqlite"):
        problem = f"cannot be opened ({reason}); correct or unset MLFLOW_TRACKING_URI"
    else:
        problem = f"cannot be reached ({reason}); start it, or unset MLFLOW_TRACKING_URI"
    problem = known_problem(error) or f"{problem} for the local store"
    return UserError(f"{uri}: {problem}")


def failure_reason(error: Exception) -> str:
    """Why a call to the tracker failed, in one line, with the remedy if that is known."""
    problem = known_problem(error)
    return masked(problem) if problem else masked(" ".join(str(error).split()))[:200]


def known_problem(error: Exception) -> str | None:
    """A problem of the address, the login, the store's tables or a deleted experiment, and the
    remedy; else None.
    """
    text = " ".join(str(error).split())
    if schema := OTHER_SCHEMA.search(text):
        return schema_problem(schema["found"])
    if fault := store_fault(text):
        return fault
    if deleted := DELETED.search(text):
        return deleted_problem(deleted["kind"], deleted["id"])
    if "unsupported URI" in text or "Could not parse SQLAlchemy URL" in text:
        return (
            "is not an address that MLflow knows; set MLFLOW_TRACKING_URI to one like "
            "http://HOST:5000 or sqlite:///mlflow.db"
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


def schema_problem(found: str) -> str:
    """`found` is the version of the store's tables; the installed MLflow needs another one."""
    import mlflow
    from mlflow.store import db_migrations

    versions = Path(db_migrations.__file__).parent / "versions"
    if not any(versions.glob(f"{found}_*.py")):
        return (
            f"its tables were made by a newer MLflow than {mlflow.__version__}; install that "
            "version, or set MLFLOW_TRACKING_URI to another store"
        )
    upgrade = 'mlflow db upgrade "$MLFLOW_TRACKING_URI"'  # it may have a password
    if path := sqlite_file(tracking_uri()):
        copy = shlex.join(["cp", str(path), f"{path}.old"])
        upgrade = f"{copy} && {shlex.join(['mlflow', 'db', 'upgrade', tracking_uri()])}"
    return (
        f"its tables were made by an older MLflow than {mlflow.__version__}; make a copy and "
        f"upgrade them: `{upgrade}`"
    )


def deleted_problem(kind: str, identifier: str) -> str:
    """`kind` is experiment or run."""
    is_set = os.environ.get("MLFLOW_TRACKING_URI")
    store = "" if is_set else f"MLFLOW_TRACKING_URI={shlex.quote(tracking_uri())} "
    name = (
        f"the experiment {experiment_name()}" if kind == "experiment" else f"the run {identifier}"
    )
    return (
        f"{name} is deleted; restore it with `{store}mlflow {kind}s restore --{kind}-id "
        f"{identifier}`, or set MLFLOW_EXPERIMENT_NAME to another name"
    )


def database_path() -> Path:
    return state_root() / "mlflow.db"


def store_lock() -> AbstractContextManager[None]:
    """The lock for creating or repairing the store, and for changing aliases in the registry.

    Raises UserError when another process does not release it.
    """
    return state_lock(state_root() / "mlflow.db.lock")


def connect() -> tuple[Any, str]:
    """Returns an MLflow client and the id of our experiment. Creates the store on first use.

    Raises UserError when the experiment is deleted, or the store's file is not a database.
    """
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    import mlflow

    uri = tracking_uri()  # mlflow.set_tracking_uri would change the environment of child processes
    with store_lock():
        file = sqlite_file(uri)
        is_local = file == database_path()
        if is_local and not database_path().exists():
            create_database()
        if is_local:
            require_database(database_path())
        elif file:
            require_sqlite(file)
        client = mlflow.MlflowClient(uri, registry_uri())
        experiment = client.get_experiment_by_name(experiment_name())
        if experiment is None:
            return client, create_experiment(client, uri)
        if experiment.lifecycle_stage == "deleted":
            problem = deleted_problem("experiment", experiment.experiment_id)
            raise UserError(f"{uri}: {problem}")
        if is_local:
            repair_moved_store(experiment.artifact_location)
        return client, str(experiment.experiment_id)


def create_database() -> None:
    """Creates the SQLite store under a temporary name and renames it when it is complete.

    MLflow cannot open a store whose creation was interrupted.
    """
    import mlflow

    path = database_path()
    partial = path.with_name(f".{path.name}.partial")
    for leftover in partial.parent.glob(f"{partial.name}*"):
        leftover.unlink()
    uri = anchored(f"sqlite:///{partial.name}")
    create_experiment(mlflow.MlflowClient(uri, uri), uri)
    partial.rename(path)


def create_experiment(client: Any, uri: str) -> str:
    """Creates our experiment and returns its id."""
    location = (state_root() / ARTIFACTS).as_uri() if sqlite_file(uri) else None
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
    path = sqlite_file(uri)
    try:
        if path and path.exists():
            with closing(sqlite3.connect(path, timeout=timeout)) as connection:
                connection.execute("BEGIN IMMEDIATE")
        elif uri.startswith("http"):
            urlopen(f"{without_logins(uri).rstrip('/')}/health", timeout=timeout).close()
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
        require_database(path)
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
    paths changed. Raises UserError when the store is damaged.
    """
    changed = 0
    path = database_path()
    with faults_explained(path), closing(sqlite3.connect(path)) as connection, connection:
        for table, column in ARTIFACT_PATH_COLUMNS:
            changed += connection.execute(
                f"UPDATE {table} SET {column} = ? || substr({column}, ?) "
                f"WHERE {column} = ? OR substr({column}, 1, ?) = ?",
                (new, len(old) + 1, old, len(old) + 1, f"{old}/"),
            ).rowcount
    return changed
