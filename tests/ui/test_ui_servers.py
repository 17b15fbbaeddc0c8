"""`make ui` with real servers, which another process stops."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mlflow
import pytest

from llava_dvc.commands import ui_servers
from llava_dvc.errors import UserError
from llava_dvc.tracking.start_page import page_file
from tests.conftest import ROOT
from tests.results import DATA, log_result, predictions, record_data
from tests.ui.conftest import free_port, is_healthy, running

START = """
import sys
from llava_dvc.commands import ui_servers
from llava_dvc.tracking import start_page
for module in (start_page, ui_servers):
    module.MLFLOW, module.TENSORBOARD = sys.argv[1:]
ui_servers.main()
"""


@contextmanager
def started(*addresses: str) -> Iterator[subprocess.Popen[str]]:
    """`make ui` with its servers at these addresses."""
    process = subprocess.Popen(
        [sys.executable, "-c", START, *addresses], stdout=-1, stderr=-1, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "DISPLAY": "", "WAYLAND_DISPLAY": ""},
    )  # fmt: skip
    try:
        yield process
    finally:
        process.terminate()
        process.wait(60)


@pytest.fixture
def addresses() -> list[str]:
    return [f"http://127.0.0.1:{free_port()}" for _ in range(2)]


def named(addresses: list[str]) -> dict[str, str]:
    return dict(zip(("MLflow", "TensorBoard"), addresses, strict=True))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_links_stand_last_and_alone(store, cfg, tmp_path, addresses, number, monkeypatch):
    record_data(tmp_path, monkeypatch, DATA)
    log_result(cfg, tmp_path, 1, predictions(1, 2.0))
    with started(*addresses) as process:
        lines = [process.stdout.readline() for _ in range(6)]
        names = ["", "Start page", "Results", "Model", "Curves", "Ctrl-C ends it."]
        assert [line.split(":")[0].strip() for line in lines] == names
        assert lines[2].startswith(f"Results: {addresses[0]}/#/experiments/1/runs?")
        assert lines[4].startswith(f"Curves: {addresses[1]}/?smoothing=0&")
        assert is_healthy(f"{addresses[0]}/health")
        assert is_healthy(f"{addresses[1]}/data/environment")
        process.send_signal(number)
        rest, errors = process.communicate(timeout=60)
    assert rest == ""
    assert errors.split("\n", 1)[0].startswith("make ui: starting MLflow and TensorBoard")
    assert errors.split("\n", 1)[1].strip() == ""
    assert process.returncode == 0
    assert not any(map(ui_servers.answers, addresses))


@pytest.fixture
def team_server(tmp_path: Path) -> Iterator[str]:
    """An MLflow server that others have started, and used for something else before."""
    url = f"http://127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "mlflow", "server", "--port", url.rpartition(":")[2]]
    command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{tmp_path}/team.db"]
    command += ["--artifacts-destination", str(tmp_path / "team")]
    with running(command, f"{url}/health", MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false"):
        mlflow.MlflowClient(url).create_experiment("of others")
        yield url


def test_a_teams_server_is_linked_to_and_none_is_started(
    store, cfg, tmp_path, addresses, team_server, monkeypatch
):
    record_data(tmp_path, monkeypatch, DATA)
    with_login = team_server.replace("//", "//ada:secret@")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"{with_login}/")
    log_result(cfg, tmp_path, 1, predictions(1, 2.0))
    with started(*addresses) as process:
        lines = [process.stdout.readline() for _ in range(6)]
        assert lines[2].startswith(f"Results: {team_server}/#/experiments/2/runs?")
        assert lines[3].startswith(f"Model: {team_server}/#/models/")
        assert [ui_servers.answers(address) for address in addresses] == [False, True]
        process.send_signal(signal.SIGINT)
        errors = process.communicate(timeout=60)[1]
    assert errors.startswith("make ui: starting TensorBoard, this takes a moment\n")
    page = page_file().read_text()
    assert "MAE 2." in page or "MAE 1." in page
    assert "secret" not in page
    assert "The link Curves works as long as" in page
    assert is_healthy(f"{team_server}/health")


def test_the_database_of_the_variable_is_served(store, cfg, tmp_path, addresses, monkeypatch):
    record_data(tmp_path, monkeypatch, DATA)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///other.db")
    log_result(cfg, tmp_path, 1, predictions(1, 2.0))
    with started(*addresses) as process:
        for _ in range(6):
            process.stdout.readline()
        served = mlflow.MlflowClient(addresses[0])
        assert len(served.search_runs(["1"], "tags.stage = 'result'")) == 1
        assert len(served.search_model_versions()) == 1


@pytest.mark.parametrize("name", ["MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"])
def test_a_store_whose_pages_are_not_known_is_said(store, monkeypatch, name):
    monkeypatch.setenv(name, "databricks://me")
    with pytest.raises(UserError, match=f"^{name}=databricks://me: make ui does not know"):
        ui_servers.own_servers()


def test_a_port_that_is_taken_is_said_at_once(store, addresses):
    with started(addresses[0], addresses[0].replace("127.0.0.1", "127.0.0.2")) as process:
        process.stdout.readline()
        with started(*addresses) as second:
            errors = second.communicate(timeout=60)[1]
    assert second.returncode == 1
    assert errors.splitlines()[1:] == [
        f"error: {addresses[0]}: another program answers there, perhaps another `make ui`. Stop "
        "it, then run make ui again."
    ]


def test_a_server_that_ends_is_named(store, tmp_path, addresses):
    (tmp_path / ".cache").mkdir()
    with ui_servers.running_servers(named(addresses)) as servers:
        os.killpg(servers["TensorBoard"].pid, signal.SIGKILL)
        servers["TensorBoard"].wait()
        with pytest.raises(UserError, match=r"^TensorBoard: its server has ended \(-9\)\. Read /"):
            ui_servers.wait_until_one_ends(servers)


def test_the_makefile_starts_it():
    assert "python -m llava_dvc.commands.ui_servers" in (ROOT / "Makefile").read_text()


def test_a_server_that_does_not_end_is_killed_with_its_children(monkeypatch):
    monkeypatch.setattr(ui_servers, "STOP_SECONDS", 0.2)
    code = "trap '' TERM; sleep 60 & echo $!; wait; wait"
    server = subprocess.Popen(["bash", "-c", code], stdout=-1, start_new_session=True)
    child = int(server.stdout.readline())
    server.terminate()
    ui_servers.wait_or_kill(server)
    assert server.returncode == -signal.SIGKILL
    deadline = time.monotonic() + 10
    while Path(f"/proc/{child}/exe").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
