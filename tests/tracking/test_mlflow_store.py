import shutil
import sqlite3
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import mlflow
import pytest

from llava_dvc.errors import UserError
from llava_dvc.tracking import registry
from llava_dvc.tracking.mlflow_store import (
    EXPERIMENT,
    is_reachable,
    masked,
    registry_uri,
    relocate,
    rewrite_artifact_paths,
    tracking_uri,
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


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://ada:pass@tracker:5000/x", "http://tracker:5000/x"),
        ("http://ada:p@ss@tracker:5000", "http://tracker:5000"),
        ("postgresql://ada:pass@db/mlflow and http://b", "postgresql://db/mlflow and http://b"),
        ("sqlite:////tmp/mlflow.db", "sqlite:////tmp/mlflow.db"),
    ],
)
def test_masked_removes_passwords(text, shown):
    assert masked(text) == shown


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
