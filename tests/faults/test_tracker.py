"""The stage goes on when the tracker is lost, locked or hangs, or the store does not exist."""

import os
import socket
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from llava_dvc.config import Config
from llava_dvc.tracking.run import open_run
from tests.conftest import ROOT
from tests.faults.conftest import Bench, board_curve, query, start
from tests.pipeline.test_pipeline import call

LOSS = {"train/loss": [(step, 1.0) for step in range(5)]}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


def log_training(cfg: Config, key: str) -> None:
    with open_run("train", cfg, {"train"}, key, {"data_md5": "d"}) as run:
        for step in range(5):
            run.step({"train/loss": 1.0}, step)


def tracking_lines(capfd: pytest.CaptureFixture[str]) -> list[str]:
    return [line for line in capfd.readouterr().err.splitlines() if line.startswith("tracking:")]


def test_a_locked_store_is_not_waited_for(root, cfg, capfd):
    log_training(cfg, "before")
    assert not tracking_lines(capfd)
    with sqlite3.connect(root / "mlflow.db") as other:
        other.execute("BEGIN EXCLUSIVE")
        log_training(cfg, "during")  # SQLite alone would wait 20 s
        (line,) = tracking_lines(capfd)
        assert "mlflow.db: logging stopped (it does not answer)" in line
    log_training(cfg, "after")
    assert not tracking_lines(capfd)
    assert len(list((root / "runs").iterdir())) == 3  # TensorBoard needs no store
    ended = "select status from runs where name like '%before' or name like '%after'"
    assert query(root, ended) == [("FINISHED",)] * 2


def test_a_server_that_never_answers_is_not_waited_for(root, cfg, capfd, monkeypatch):
    with socket.create_server(
        ("127.0.0.1", 0)
    ) as mute:  # the kernel accepts connections, nobody reads
        port = mute.getsockname()[1]
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
        log_training(cfg, "k")
        (line,) = tracking_lines(capfd)
        assert f"{port}: logging stopped (it does not answer)" in line
    assert board_curve(root) == LOSS


def test_four_first_uses_at_once(root):
    code = """if True:
        from llava_dvc.config import load_config
        from llava_dvc.tracking.run import open_run
        import os
        with open_run("t", load_config(), {"seed"}, str(os.getpid()), {}) as run:
            for step in range(5):
                run.step({"train/loss": 1.0}, step)
    """
    four = [
        subprocess.Popen(
            [sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.PIPE, text=True,
            env=os.environ | {"DVC_ROOT": str(root)},
        )
        for _ in range(4)
    ]  # fmt: skip
    errors = "".join(process.communicate()[1] for process in four)
    assert "tracking:" not in errors
    assert [process.returncode for process in four] == [0] * 4
    statuses = query(root, "select status from runs")
    assert statuses == [("FINISHED",)] * 4
    points = query(root, "select count(*) from metrics where key = 'train/loss'")
    assert points == [(20,)]


def test_a_moved_repository_goes_on_logging(bench: Bench):
    """The old folder is gone, and MLflow's store holds absolute paths."""
    moved = bench.reset("publish").with_name("moved")
    bench.repo.rename(moved)
    try:
        process = start(moved, "publish")
        output, _ = process.communicate()
        assert process.returncode == 0, output
        assert "tracking:" not in output, output
        assert {status for (status,) in query(moved, "select status from runs")} == {"FINISHED"}
        assert list((moved / "mlartifacts").rglob("published/README.md"))
        assert not bench.repo.exists()
    finally:
        moved.rename(bench.repo)


def test_two_repros_at_once(bench: Bench):
    """DVC may refuse one of them, with a message about the lock."""
    repo = bench.reset("prepare")
    two = [start(repo, "prepare") for _ in range(2)]
    outputs = [process.communicate()[0] for process in two]
    codes = [process.returncode for process in two]
    assert 0 in codes, outputs
    for code, output in zip(codes, outputs, strict=True):
        assert code == 0 or "is busy" in output or "lock" in output, output
    bench.is_as_uninterrupted("prepare")
    assert call(repo, "dvc", "repro", "--single-item", "prepare").returncode == 0
    assert len(query(repo, "select * from runs")) == 1
