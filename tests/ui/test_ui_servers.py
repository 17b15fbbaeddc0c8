"""`make ui` with real servers, which another process stops."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from llava_dvc.commands import ui_servers
from llava_dvc.errors import UserError
from tests.conftest import ROOT
from tests.results import DATA, log_result, predictions, record_data
from tests.ui.conftest import free_port, is_healthy

START = """
import signal, sys
from llava_dvc.commands import ui_servers
from llava_dvc.tracking import start_page
for module in (start_page, ui_servers):
    module.MLFLOW, module.TENSORBOARD = sys.argv[1:]
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a job of a script
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
    with ui_servers.running_servers(*addresses) as servers:
        os.killpg(servers["TensorBoard"].pid, signal.SIGKILL)
        servers["TensorBoard"].wait()
        with pytest.raises(UserError, match=r"^TensorBoard: its server has ended \(-9\)\. Read /"):
            ui_servers.wait_until_one_ends(servers)


def test_the_makefile_starts_it():
    assert "python -m llava_dvc.commands.ui_servers" in (ROOT / "Makefile").read_text()
