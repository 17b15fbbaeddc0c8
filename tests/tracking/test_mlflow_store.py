import shlex
import shutil
import sqlite3
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import mlflow
import pytest

from llava_dvc.errors import UserError
from llava_dvc.tracking import experiments, registry
from llava_dvc.tracking.mlflow_store import (
    ARTIFACTS,
    EXPERIMENT,
    is_reachable,
    registry_uri,
    relocate,
    rewrite_artifact_paths,
    sqlite_file,
    tracking_uri,
    unreachable,
)
from llava_dvc.tracking.run import open_run
from tests.results import DATA, log_result, predictions


@pytest.fixture
def moved(store, cfg, tmp_path, monkeypatch):
    """A repository with a result that was moved from `here` to `there`; returns both folders."""
    here, there = tmp_path / "here", tmp_path / "그곳, there"
    here.mkdir()
    monkeypatch.setenv("DVC_ROOT", str(here))
    (tmp_path / "mlflow.db").rename(here / "mlflow.db")
    rewrite_artifact_paths(tmp_path.as_uri(), here.as_uri())
    log_result(cfg, here, 1, predictions(1, 2.0))
    shutil.copytree(here, there)  # SQLite fails when an open file moves
    shutil.rmtree(here)
    monkeypatch.setenv("DVC_ROOT", str(there))
    return here, there


def artifacts(root):
    """Names of the artifacts that MLflow finds for the only run of this store."""
    client = mlflow.MlflowClient(f"sqlite:///{root}/mlflow.db")
    experiment = client.get_experiment_by_name(EXPERIMENT)
    (run,) = client.search_runs([experiment.experiment_id])
    return [artifact.path for artifact in client.list_artifacts(run.info.run_id)]


def test_relocate_repairs_a_moved_store(moved):
    here, there = moved
    assert artifacts(there) == []  # and no error: the artifacts are lost without a message
    assert relocate() == f"{there}/mlflow.db: 5 paths now lead to {there}/mlartifacts"
    assert artifacts(there) == ["eval.csv"]
    assert (registry.champion_folder() / "adapter_model.safetensors").is_file()
    assert relocate().endswith("already")
    with sqlite3.connect(there / "mlflow.db") as connection:
        dump = "\n".join(connection.iterdump())
    assert here.as_uri() not in dump


def test_the_next_stage_repairs_a_moved_store(moved, cfg):
    here, there = moved
    log_result(cfg, there, 2, predictions(2, 2.0))
    assert not here.exists()
    assert len(list((there / "mlartifacts").glob("*/artifacts/eval.csv"))) == 2


def test_a_copied_store_is_not_changed(moved, cfg, capfd):
    here, there = moved
    shutil.copytree(there, here)
    with open_run("train", cfg, {"train"}, "k", {"data_md5": DATA}):
        pass
    assert "mlartifacts; if the repository was copied" in capfd.readouterr().err
    assert artifacts_location(there) == (here / "mlartifacts").as_uri()


def artifacts_location(root):
    client = mlflow.MlflowClient(f"sqlite:///{root}/mlflow.db")
    return client.get_experiment_by_name(EXPERIMENT).artifact_location


def test_only_whole_prefixes_are_rewritten(store, tmp_path):
    """A path in /a/mlartifacts-old does not belong to /a/mlartifacts."""
    client = store()
    other = (tmp_path / "mlartifacts-old").as_uri()
    client.create_experiment("other", artifact_location=other)
    assert rewrite_artifact_paths((tmp_path / "mlartifacts").as_uri(), "file:///new") == 1
    assert store().get_experiment_by_name("other").artifact_location == other


def test_relocate_without_a_store_is_a_user_error(tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    with pytest.raises(UserError, match=r"mlflow\.db: not found; nothing has been logged here yet"):
        relocate()


def test_a_server_with_a_password_in_its_url_is_reachable(monkeypatch):
    class Healthy(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Healthy) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://ada:p@127.0.0.1:{server.server_port}")
        assert is_reachable(5.0)


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("sqlite:///mlflow.db", "sqlite:///{root}/mlflow.db"),
        ("sqlite:///./mlflow.db", "sqlite:///{root}/mlflow.db"),
        ("sqlite:///stores/a b.db?timeout=20", "sqlite:///{root}/stores/a b.db?timeout=20"),
        ("sqlite:///../mlflow.db", "sqlite:///{parent}/mlflow.db"),
        ("sqlite+pysqlite:///mlflow.db", "sqlite+pysqlite:///{root}/mlflow.db"),
        ("file:mlruns", "file:{root}/mlruns"),
        ("file:./mlruns", "file:{root}/mlruns"),
        ("mlruns", "{root}/mlruns"),
        ("./mlruns", "{root}/mlruns"),
        *((same, same) for same in (
            "sqlite:////tmp/mlflow.db", "sqlite:///:memory:", "sqlite://", "http://tracker:5000/x",
            "https://ada:p@tracker", "postgresql://db/mlflow", "file:///tmp/mlruns", "/tmp/mlruns",
            "databricks", "databricks://profile", "databricks-uc",
        )),
    ],
)  # fmt: skip
def test_relative_stores_are_anchored_at_the_repository(tmp_path, monkeypatch, uri, expected):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    expected = expected.format(root=tmp_path, parent=tmp_path.parent)
    for name, address in (("TRACKING", tracking_uri), ("REGISTRY", registry_uri)):
        monkeypatch.setenv(f"MLFLOW_{name}_URI", uri)
        assert address() == expected
        monkeypatch.delenv(f"MLFLOW_{name}_URI")
    assert registry_uri() == tracking_uri() == f"sqlite:///{tmp_path}/mlflow.db"


@pytest.mark.parametrize("name", ["""what? #1 50% "it's" %3F & more""", "a%3Fb"])
def test_a_repository_may_have_any_name(store, cfg, tmp_path, monkeypatch, name):
    """MLflow takes the store's address for a URL: %, ? and # have a meaning there."""
    root = tmp_path / name
    root.mkdir()
    (tmp_path / "mlflow.db").rename(root / "mlflow.db")
    monkeypatch.setenv("DVC_ROOT", str(root))
    rewrite_artifact_paths((tmp_path / ARTIFACTS).as_uri(), (root / ARTIFACTS).as_uri())
    log_result(cfg, root, 1, predictions(1, 2.0))
    assert [path.name for path in tmp_path.iterdir()] == [name]
    with sqlite3.connect(root / "mlflow.db") as connection:
        statuses = connection.execute("SELECT status FROM runs").fetchall()
        assert statuses == [("FINISHED",)]
        connection.commit()
        connection.execute("BEGIN EXCLUSIVE")
        assert not is_reachable(0.1)
    assert len(experiments.result_runs()) == 1
    assert (registry.champion_folder() / "adapter_model.safetensors").is_file()
    assert list((root / "mlartifacts").rglob("eval.csv"))
    assert relocate().endswith("already")
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("sqlite:///mlflow.db", "sqlite+pysqlite:///{root}/50%25%3F%23/mlflow.db"),
        ("sqlite:///a b.db?timeout=2", "sqlite+pysqlite:///{root}/50%25%3F%23/a b.db?timeout=2"),
        ("file:mlruns", "file:{root}/50%25%3F%23/mlruns"),
        ("mlruns", "{root}/50%25%3F%23/mlruns"),
        ("sqlite:////tmp/a%3Fb.db", "sqlite:////tmp/a%3Fb.db"),
    ],
)
def test_the_repositorys_path_is_escaped_in_an_address(tmp_path, monkeypatch, uri, expected):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "50%?#"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert tracking_uri() == expected.format(root=tmp_path)


def test_the_file_of_a_sqlite_store(tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "50%?#"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert sqlite_file(tracking_uri()) == tmp_path / "50%?#" / "mlflow.db"
    assert sqlite_file("sqlite:////tmp/a b.db?timeout=20") == Path("/tmp/a b.db")
    assert sqlite_file("http://tracker:5000") is None


@pytest.mark.parametrize("uri", ["sqlite:///mlflow.db", "sqlite:///mine.db"])
def test_a_run_in_a_temporary_workspace_is_in_the_repositorys_store(
    store, cfg, tmp_path, monkeypatch, uri
):
    """As in `dvc exp run --temp`, which deletes the workspace."""
    if uri.endswith("mine.db"):
        (tmp_path / "mlflow.db").rename(tmp_path / "mine.db")
    workspace = tmp_path / ".dvc" / "tmp" / "exps" / "tmpabc"
    workspace.mkdir(parents=True)
    monkeypatch.chdir(workspace)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", uri)
    log_result(cfg, tmp_path, 1, predictions(1, 2.0))
    assert list(workspace.iterdir()) == []
    absolute = f"sqlite:///{tmp_path}/{uri.removeprefix('sqlite:///')}"
    client = mlflow.MlflowClient(absolute, absolute)
    experiment = client.get_experiment_by_name(EXPERIMENT).experiment_id
    (run,) = client.search_runs([experiment])
    assert run.info.artifact_uri.startswith((tmp_path / "mlartifacts").as_uri())
    assert client.get_model_version_by_alias(registry.MODEL, "champion").run_id == run.info.run_id


@pytest.fixture
def spaced(store, tmp_path, monkeypatch):
    """A repository whose path has a space and a quote, with a store."""
    root = tmp_path / "Ada's frames"
    root.mkdir()
    (tmp_path / "mlflow.db").rename(root / "mlflow.db")
    monkeypatch.setenv("DVC_ROOT", str(root))
    monkeypatch.setattr(experiments, "exp_show", lambda: [])
    return root


def change_schema(root, version):
    with sqlite3.connect(root / "mlflow.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = ?", (version,))


def refusal(command):
    with pytest.raises(UserError) as raised:
        command()
    return str(raised.value)


def test_an_older_store_names_the_whole_command(spaced, cfg, capfd):
    change_schema(spaced, "1b5f0d9ad7c1")
    path = shlex.quote(f"{spaced}/mlflow.db")
    command = f"cp {path} {shlex.quote(f'{spaced}/mlflow.db.old')} && "
    command += f"mlflow db upgrade {shlex.quote(f'sqlite:///{spaced}/mlflow.db')}"
    problem = (
        f"its tables were made by an older MLflow than {mlflow.__version__}; make a copy and "
        f"upgrade them: `{command}`"
    )
    uri = f"sqlite:///{spaced}/mlflow.db"
    for ask in (experiments.experiment_table, registry.champion_folder):
        assert refusal(ask) == f"{uri}: {problem}"
    with open_run("train", cfg, {"train"}, "k", {"data_md5": DATA}):
        pass
    assert (
        tracking_line(capfd)
        == f"tracking: {uri}: logging stopped ({problem}); the stage continues without it"
    )


def test_a_newer_store_needs_a_newer_mlflow(spaced):
    change_schema(spaced, "ffffffffffff")
    assert refusal(experiments.experiment_table) == (
        f"sqlite:///{spaced}/mlflow.db: its tables were made by a newer MLflow than "
        f"{mlflow.__version__}; install that version, or set MLFLOW_TRACKING_URI to another store"
    )


def test_an_older_store_on_a_database_server_shows_no_password(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://ada:secret@db/mlflow")
    error = Exception("Detected out-of-date database schema (found version 1b5f0d9ad7c1, but")
    said = str(unreachable(error))
    assert said.startswith("postgresql://db/mlflow: its tables were made by an older MLflow")
    assert said.endswith('upgrade them: `mlflow db upgrade "$MLFLOW_TRACKING_URI"`')


def test_a_locked_store_is_said_as_such(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    said = str(unreachable(sqlite3.OperationalError("database is locked [SQL: SELECT 1]")))
    problem = "is locked by another process; wait for it, continue it with `fg`, or end it"
    assert said.endswith(f"mlflow.db: {problem}")


def delete_experiment(store):
    client = store()
    experiment = client.get_experiment_by_name(EXPERIMENT).experiment_id
    client.delete_experiment(experiment)
    return experiment


def tracking_line(capfd):
    (line,) = [x for x in capfd.readouterr().err.splitlines() if x.startswith("tracking:")]
    return line


def test_a_deleted_experiment_has_a_remedy(store, cfg, tmp_path, monkeypatch, capfd):
    log_result(cfg, tmp_path, 1, predictions(1, 2.0))
    experiment = delete_experiment(store)
    capfd.readouterr()
    with open_run("train", cfg, {"train"}, "k", {"data_md5": DATA}):
        pass
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    problem = (
        f"the experiment llava-dvc is deleted; restore it with `MLFLOW_TRACKING_URI={uri} mlflow "
        f"experiments restore --experiment-id {experiment}`, or set MLFLOW_EXPERIMENT_NAME to "
        "another name"
    )
    lost = f"tracking: {uri}: logging stopped ({problem}); the stage continues without it"
    assert tracking_line(capfd) == lost
    monkeypatch.setattr(experiments, "exp_show", lambda: [])
    for command in (experiments.experiment_table, registry.champion_folder):
        with pytest.raises(UserError) as raised:
            command()
        assert str(raised.value) == f"{uri}: {problem}"
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "second")
    log_result(cfg, tmp_path, 2, predictions(2, 2.0))
    assert "tracking:" not in capfd.readouterr().err
    second = store().get_experiment_by_name("second").experiment_id
    (run,) = store().search_runs([second])
    assert run.info.artifact_uri.startswith((tmp_path / "mlartifacts").as_uri())
    assert relocate().endswith("already")
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME")
    store().restore_experiment(experiment)
    assert experiments.result_runs()


@pytest.mark.parametrize("deleted", ["experiment", "run"])
def test_a_deletion_during_a_stage_has_a_remedy(store, cfg, capfd, deleted):
    with open_run("train", cfg, {"train"}, "k", {"data_md5": DATA}) as run:
        while run.run_id is None:
            time.sleep(0.01)
        delete_experiment(store) if deleted == "experiment" else store().delete_run(run.run_id)
        run.tags({"a": "b"})
    line = tracking_line(capfd)
    assert "is deleted; restore it with `MLFLOW_TRACKING_URI=sqlite:///" in line
    assert "s restore --" in line
    assert line.endswith("another name); the stage continues without it")


@pytest.mark.parametrize(
    ("status", "body", "problem"),
    [
        (404, "<html>nginx</html>", r"answers, but not as MLflow \(404\); the address is wrong: "),
        (404, '{"detail": "Not Found"}', "answers, but not as MLflow; the address is wrong: "),
        (200, "<html>a page</html>", "answers, but not as MLflow; the address is wrong: "),
        (302, "", r"answers, but not as MLflow \(302\); the address is wrong: "),
        (401, "who?", "refuses access; set MLFLOW_TRACKING_USERNAME and"),
        (403, '{"error_code": "PERMISSION_DENIED", "message": "no"}', "refuses access; set MLFLOW"),
        (500, "oops", r"answers with an error \(500\); read the log of the server"),
        (501, "oops", r"answers with an error \(501\); read the log of the server"),
    ],
)
def test_an_answer_that_is_not_mlflows_names_the_cause(
    store, cfg, monkeypatch, status, body, problem
):
    class Other(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_):
            pass

    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with HTTPServer(("127.0.0.1", 0), Other) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        uri = f"http://127.0.0.1:{server.server_port}/missing"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        with pytest.raises(UserError, match=f"^{uri}: {problem}"):
            experiments.result_runs()
        server.shutdown()


@pytest.mark.parametrize("uri", ["tracker:5000", "sqlite:mlflow.db", "htp://tracker"])
def test_an_address_that_mlflow_does_not_know_is_a_user_error(store, monkeypatch, uri):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(UserError, match=f"^{uri}: is not an address that MLflow knows; set MLFLOW"):
        experiments.result_runs()


def test_a_file_that_is_no_store_is_a_user_error(store, tmp_path, monkeypatch):
    (tmp_path / "notes.txt").write_text("no database " * 100)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///notes.txt")
    with pytest.raises(UserError) as caught:
        experiments.result_runs()
    assert str(caught.value) == (
        f"{tmp_path}/notes.txt: is not an SQLite database. Move the file away, or correct "
        "MLFLOW_TRACKING_URI."
    )


def test_a_folder_of_files_is_said_with_the_remedy(store, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "file:mlruns")
    with pytest.raises(UserError) as caught:
        experiments.result_runs()
    assert str(caught.value) == (
        f"file:{tmp_path}/mlruns: is a folder of files, which this MLflow no longer writes; set "
        "MLFLOW_TRACKING_URI to a database, for example sqlite:///mlflow.db"
    )
