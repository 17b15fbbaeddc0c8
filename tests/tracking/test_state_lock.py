"""A lock that another process holds, for example one that was stopped with Ctrl-Z."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from llava_dvc.errors import UserError
from llava_dvc.tracking import experiments, mlflow_store, registry, state_lock
from llava_dvc.tracking.run import open_result

HOLD = """
import signal, sys
from filelock import FileLock
lock = FileLock(sys.argv[1])
lock.acquire()
print("held", flush=True)
signal.pause()
"""


@pytest.fixture
def stopped(store, tmp_path: Path, request, monkeypatch) -> Iterator[subprocess.Popen[str]]:
    """A stopped process that holds the lock file of the test's parameter."""
    monkeypatch.setattr(state_lock, "LOCK_TIMEOUT", 0.5)
    path = tmp_path / request.param
    path.parent.mkdir(exist_ok=True)
    command = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "held\n"
        os.kill(process.pid, signal.SIGSTOP)
        yield process
        process.kill()


def held_line(path: Path, pid: int) -> str:
    return (
        f"{path}: is held by process {pid} (stopped) and was not released in 0.5 s; continue that "
        "process with `fg`, or end it"
    )


def log(cfg) -> None:
    with open_result(cfg, "sha", "d") as run:
        run.metrics({"mae": 2.0})


@pytest.mark.parametrize("stopped", ["mlflow.db.lock"], indirect=True)
def test_a_stage_goes_on_without_a_store_that_is_held(stopped, cfg, tmp_path, capfd):
    log(cfg)
    (line,) = capfd.readouterr().err.splitlines()
    problem = held_line(tmp_path / "mlflow.db.lock", stopped.pid)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    assert line == f"tracking: {uri}: logging stopped ({problem}); the stage continues without it"
    assert list((tmp_path / "runs").glob("*/events*"))  # TensorBoard needs no store


@pytest.mark.parametrize("stopped", ["mlflow.db.lock"], indirect=True)
def test_a_command_does_not_wait_for_a_store_that_is_held(stopped, tmp_path, monkeypatch):
    monkeypatch.setattr(experiments, "exp_show", lambda: [])
    for command in (
        experiments.experiment_table,
        registry.champion_folder,
        mlflow_store.relocate,
    ):
        with pytest.raises(UserError) as raised:
            command()
        assert str(raised.value) == held_line(tmp_path / "mlflow.db.lock", stopped.pid)


@pytest.mark.parametrize("stopped", [".cache/runs.lock"], indirect=True)
def test_a_stage_goes_on_without_folders_that_are_held(stopped, cfg, tmp_path, capfd):
    log(cfg)
    lines = capfd.readouterr().err.splitlines()
    problem = held_line(tmp_path / ".cache" / "runs.lock", stopped.pid)
    (folder,) = {line.split(": ")[1] for line in lines}
    assert lines == [f"tensorboard: {folder}: {problem}; the stage continues without it"]
