"""A sweep over two machines: two clones, a bucket for DVC, and one MLflow server on PostgreSQL."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import mlflow
import pytest

from tests.pipeline.test_pipeline import (
    built,  # noqa: F401 a fixture, as are the next ones
    call,
    ran,
    repo,  # noqa: F401
    rows,
)
from tests.ui.conftest import postgres, server  # noqa: F401

SHARES = {"one": range(40, 44), "two": range(44, 48)}
"""Each machine's values of `evaluate.max_count`."""
NAMES = {f"up-to-{value}" for values in SHARES.values() for value in values}


def done(repo: Path, *command: str, **environment: str) -> str:  # noqa: F811
    ended = call(repo, *command, **environment)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.fixture
def origin(built: Path, bucket: Any, tmp_path: Path) -> Path:  # noqa: F811
    """A bare repository with a pipeline that has run. Its results are in the bucket."""
    first, origin = tmp_path / "first", tmp_path / "origin.git"
    done(tmp_path, "git", "clone", "-q", str(built), str(first))
    (first / ".dvc" / "cache").symlink_to(built / ".dvc" / "cache")
    done(first, "git", "config", "user.email", "test@example.org")
    done(first, "git", "config", "user.name", "test")
    done(first, "dvc", "remote", "add", "-d", "store", f"s3://{bucket.name}/dvc")
    done(first, "git", "commit", "-qam", "A store")
    done(first, "dvc", "push", "-q", "--run-cache")
    done(tmp_path, "git", "clone", "-q", "--bare", str(first), str(origin))
    return origin


def work(machine: Path, origin: Path, tracker: str) -> None:
    """One machine's share: clone, pull, run, push."""
    done(machine.parent, "git", "clone", "-q", str(origin), str(machine))
    done(machine, "git", "config", "user.email", "test@example.org")
    done(machine, "git", "config", "user.name", "test")
    done(machine, "dvc", "pull", "-q", "--run-cache")
    for value in SHARES[machine.name]:
        asked = (f"evaluate.max_count={value}", "--name", f"up-to-{value}", "--temp")
        done(machine, "dvc", "exp", "run", "-S", *asked, MLFLOW_TRACKING_URI=tracker)
    own = [f"up-to-{value}" for value in SHARES[machine.name]]
    done(machine, "dvc", "exp", "push", "-q", "--run-cache", "origin", *own)


def test_two_machines_share_a_sweep(origin: Path, server: str, tmp_path: Path):  # noqa: F811
    machines = [tmp_path / name for name in SHARES]
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda machine: work(machine, origin, server), machines))
    client = mlflow.MlflowClient(server)
    experiment = client.get_experiment_by_name("llava-dvc")
    results = client.search_runs([experiment.experiment_id], "tags.stage = 'result'")
    assert sorted(run.info.run_name for run in results) == sorted(NAMES)
    assert {run.info.status for run in results} == {"FINISHED"}
    for machine in machines:
        done(machine, "dvc", "exp", "pull", "-q", "--run-cache", "origin", *NAMES)
        assert rows(machine).keys() == NAMES
        table = done(machine, "llava-dvc", "runs", MLFLOW_TRACKING_URI=server).splitlines()
        assert {line.split()[0] for line in table if line.startswith("up-to-")} == NAMES
    again = done(machines[0], "dvc", "exp", "run", "-S", "evaluate.max_count=47")
    assert ran(again) == []  # the other machine's result
