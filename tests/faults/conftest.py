"""A small pipeline to hurt, and copies of it from just before each stage.

`FAULTS_KILLS` is how often train is killed (the other stages a quarter as often), `FAULTS_SEED`
repeats the moments of a run that failed.
"""

import os
import random
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import fsspec
import pytest
import yaml
from moto.server import ThreadedMotoServer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from llava_dvc.recipe import adapter_sha256
from llava_dvc.tracking.run import TRAINING_SECONDS
from tests.pipeline.test_pipeline import call, repo, set_param  # noqa: F401 a fixture

STAGES = ("prepare", "baseline", "train", "evaluate", "publish")
KILLS = int(os.environ.get("FAULTS_KILLS", "8"))
Curve = dict[str, list[tuple[int, float]]]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("faults")


@dataclass
class Bench:
    """A repository that is put back to any stage's start, always in the same folder: MLflow's store
    holds absolute paths.
    """

    repo: Path
    kept: Path
    seconds: dict[str, float] = field(default_factory=dict)
    """That each stage took, `dvc` included."""
    lock: str = ""
    """dvc.lock of the uninterrupted run."""
    adapter: str = ""
    """sha256 of its adapter."""
    curve: Curve = field(default_factory=dict)
    """What it logged."""

    def keep(self, stage: str) -> None:
        shutil.copytree(self.repo, self.kept / stage, symlinks=True)

    def reset(self, stage: str) -> Path:
        """The repository as it was just before `stage`; after all of them: "done"."""
        shutil.rmtree(self.repo)
        shutil.copytree(self.kept / stage, self.repo, symlinks=True)
        return self.repo

    def is_as_uninterrupted(self, stage: str) -> None:
        """All of `stage`'s outs as if nothing had happened, and nothing else left behind."""
        now, then = (yaml.safe_load(t)["stages"][stage] for t in (self.dvc_lock(), self.lock))
        assert now == then
        assert call(self.repo, "dvc", "status", stage).stdout.endswith("up to date.\n")
        assert not list(self.repo.rglob("*.partial"))
        assert not list((self.repo / "checkpoints").glob("*/*"))

    def dvc_lock(self) -> str:
        return (self.repo / "dvc.lock").read_text()


@pytest.fixture(scope="session")
def bench(repo: Path, tmp_path_factory: pytest.TempPathFactory) -> Bench:  # noqa: F811
    """Runs every stage once, undisturbed."""
    bench = Bench(repo, tmp_path_factory.mktemp("kept"))
    set_param(repo, "train.epochs", 8)
    set_param(repo, "train.batch_size", 4)
    set_param(repo, "train.save_every", 1)
    for stage in STAGES:
        bench.keep(stage)
        start = time.monotonic()
        done = call(repo, "dvc", "repro", "--single-item", stage)
        assert done.returncode == 0, done.stderr
        bench.seconds[stage] = time.monotonic() - start
    bench.keep("done")
    bench.lock, bench.adapter = bench.dvc_lock(), adapter_sha256(repo / "models" / "adapter")
    bench.curve = mlflow_curve(repo)
    sys.stdout.write(f"seconds of each stage: {bench.seconds}\n")
    return bench


@pytest.fixture
def rng() -> random.Random:
    seed = os.environ.get("FAULTS_SEED") or str(random.randrange(10**6))
    sys.stdout.write(f"FAULTS_SEED={seed}\n")  # pytest shows it when the test fails
    return random.Random(seed)


def start(repo: Path, stage: str) -> subprocess.Popen[str]:  # noqa: F811
    """`dvc repro STAGE` in a process group of its own."""
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HF_HUB_OFFLINE": "1",
    }
    return subprocess.Popen(
        ["dvc", "repro", "--single-item", stage], cwd=repo, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip


def query(repo: Path, sql: str) -> list[tuple]:  # noqa: F811
    """Of MLflow's store; its client would keep a connection to a file that a reset replaces."""
    with sqlite3.connect(repo / "mlflow.db") as store:
        return store.execute(sql).fetchall()


def mlflow_curve(repo: Path) -> Curve:  # noqa: F811
    """Of the one run that has a training's loss: points of every metric of training, by step.
    Not how long it took: that differs.
    """
    columns = "run_uuid, key, step, value"
    found = query(
        repo, f"select {columns} from metrics where key <> '{TRAINING_SECONDS}' order by step"
    )
    (run,) = {run for run, key, _, _ in found if key == "train/loss"}
    curve: Curve = {}
    for where, key, step, value in found:
        if where == run and key.split("/")[0] in {"train", "val"}:
            curve.setdefault(key, []).append((step, value))
    return curve


def board_curve(repo: Path) -> Curve:  # noqa: F811
    """The same from TensorBoard's event files, read as it reads them."""
    found: Curve = {}
    for folder in {file.parent for file in (repo / "runs").rglob("events.*")}:
        board = EventAccumulator(str(folder)).Reload()
        for tag in board.Tags()["scalars"]:
            if tag.split("/")[0] in {"train", "val"} and tag != TRAINING_SECONDS:
                assert tag not in found, "two runs"
                found[tag] = [(event.step, event.value) for event in board.Scalars(tag)]
    return found


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An empty bucket on moto's server. The environment leads to it."""
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "somebody",
        "AWS_SECRET_ACCESS_KEY": "a-word-of-theirs",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    bucket = boto3.resource("s3").Bucket("llava")
    bucket.create()
    bucket.objects.delete()  # moto keeps them in this process
    yield bucket
    fsspec.get_filesystem_class("s3").clear_instance_cache()  # it knows this server's address
    server.stop()
