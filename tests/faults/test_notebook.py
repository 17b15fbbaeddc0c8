"""The notebook as on Colab, with a stand-in for `google.colab` and a folder for the Drive."""

import os
import shlex
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.docs.test_notebook import CELLS
from tests.pipeline.test_pipeline import call, repo, set_param  # noqa: F401 a fixture

STAND_IN = """
import pathlib
import types

drive = types.SimpleNamespace(
    mount=lambda path: pathlib.Path(path, "MyDrive").mkdir(parents=True, exist_ok=True)
)
output = types.SimpleNamespace(serve_kernel_port_as_window=lambda port: None)
"""
MAKE = """#!/bin/sh
# a stand-in for `make setup`: the installed packages instead of a download of 7 GB
test "$1" = setup && ln -sfn {venv} .venv
"""
STEPS = 24  # 24 frames in batches of 4, 4 epochs
PATIENCE = 1200  # seconds; a session takes one or two minutes on two quiet cores
SKIPPED = ("MLFLOW = ", "llava-dvc predict")
"""Cells without a part for Colab; .ci/run runs them."""


@pytest.fixture
def origin(repo: Path, tmp_path: Path) -> Path:  # noqa: F811 a fixture
    """The repository to clone, with its data in a remote."""
    origin = shutil.copytree(repo, tmp_path / "origin", symlinks=True)
    for key, value in (("epochs", 4), ("batch_size", 4), ("save_every", 1)):
        set_param(origin, f"train.{key}", value)
    remote = shlex.quote(str(tmp_path / "sample"))
    for command in (f"dvc remote add -q -d --force sample {remote}", "dvc push -q"):
        assert call(origin, *shlex.split(command)).returncode == 0
    call(origin, "git", "commit", "-qm", "A remote", ".dvc/config", "params.yaml")
    return origin


@pytest.fixture
def colab(tmp_path: Path) -> Path:
    """A folder in place of /content."""
    (tmp_path / "modules" / "google" / "colab").mkdir(parents=True)
    (tmp_path / "modules" / "google" / "colab" / "__init__.py").write_text(STAND_IN)
    make = tmp_path / "bin" / "make"
    make.parent.mkdir()
    make.write_text(MAKE.format(venv=sys.prefix))
    make.chmod(0o755)
    (tmp_path / "content").mkdir()
    return tmp_path / "content"


def start_session(content: Path, origin: Path) -> subprocess.Popen[str]:
    """Runs all cells, in a process group of its own. Their output goes to a file."""
    source = "\n".join(cell for cell in CELLS if not any(text in cell for text in SKIPPED))
    source = source.replace("/content/drive", f"{content}/drive")
    source = source.replace("https://github.com/your-name/llava-dvc", str(origin))
    (content / "cells.py").write_text(source)
    modules, programs = content.parent / "modules", content.parent / "bin"
    environment = os.environ | {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "PYTHONPATH": f"{content / 'llava-dvc'}:{modules}",
        "HF_HUB_OFFLINE": "1",
    }
    with (content / "said.txt").open("w") as said:
        return subprocess.Popen(
            [sys.executable, "-u", "cells.py"], cwd=content, env=environment, text=True,
            stdout=said, stderr=said, start_new_session=True,
        )  # fmt: skip


def end(process: subprocess.Popen[str]) -> None:
    """The runtime ends: all its processes at once."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def test_a_runtime_that_ends_in_a_training_loses_nothing(origin, colab):
    drive = colab / "drive" / "MyDrive" / "llava-dvc"
    first = start_session(colab, origin)
    deadline = time.monotonic() + PATIENCE
    while not list(drive.glob("checkpoints/*/checkpoint-*[3-9]")):
        assert first.poll() is None, (colab / "said.txt").read_text()[-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    end(first)
    said = (colab / "said.txt").read_text()
    assert "settings: tiny, float32" in said
    for stage in ("prepare", "baseline", "train"):
        assert f"Running stage '{stage}'" in said
    shutil.rmtree(colab / "llava-dvc")  # the runtime's own disk

    second = start_session(colab, origin)
    try:
        code = second.wait(timeout=PATIENCE)
    finally:
        end(second)  # with MLflow's server, which the notebook leaves running
    assert code == 0, (colab / "said.txt").read_text()[-3000:]
    said = (colab / "said.txt").read_text()
    for stage in ("prepare", "baseline"):
        assert f"Running stage '{stage}'" not in said
    assert "Running stage 'train'" in said
    assert "ridge_features" in said
    with sqlite3.connect(drive / "mlflow.db") as store:
        query = "select run_uuid, step from metrics where key = 'train/loss' order by step"
        points = store.execute(query).fetchall()
        stages = store.execute("select value from tags where key = 'stage'").fetchall()
    assert [step for _, step in points] == list(range(1, STEPS + 1))
    assert len({run for run, _ in points}) == 1  # the training went on
    assert sorted(stage for (stage,) in stages) == ["baseline", "prepare", "result"]
    assert list((drive / "runs").glob("*/events*"))
