"""SIGKILL at random moments, to the stage, to dvc or to both; then `dvc repro` again."""

import os
import random
import signal
import subprocess
import time

import psutil
import pytest

from llava_dvc.recipe import adapter_sha256
from tests.faults.conftest import (
    KILLS,
    STAGES,
    Bench,
    board_curve,
    mlflow_curve,
    query,
    start,
)
from tests.pipeline.test_pipeline import set_param


def is_stage(process: psutil.Process) -> bool:
    """Whether it is the process of a stage, and has not ended."""
    try:
        return any(word.startswith("stages.") for word in process.cmdline())
    except psutil.NoSuchProcess:  # also a zombie
        return False


def kill(process: subprocess.Popen[str], victim: str) -> None:
    """SIGKILL to `victim`: the stage's own process, dvc alone, or both at once."""
    stages = list(filter(is_stage, psutil.Process(process.pid).children(recursive=True)))
    if victim == "both":
        os.killpg(process.pid, signal.SIGKILL)
    elif victim == "stage" and stages:
        stages[0].kill()
    else:
        process.kill()


def disturb(bench: Bench, stage: str, rng: random.Random) -> bool:
    """Run `stage` and kill it; False if it had ended before."""
    victim, moment = rng.choice(["stage", "dvc", "both"]), rng.random() * bench.seconds[stage]
    process, since = start(bench.repo, stage), time.monotonic()
    try:
        output, _ = process.communicate(timeout=moment)
    except subprocess.TimeoutExpired:
        kill(process, victim)
        process.wait()
        print(f"{stage}: {victim} killed after {moment:.2f} s")  # noqa: T201 for a failed run
        assert process.returncode != 0
        return True
    assert process.returncode == 0, output
    bench.seconds[stage] = time.monotonic() - since
    return False


def finish(bench: Bench, stage: str) -> None:
    process = start(bench.repo, stage)
    output, _ = process.communicate()
    assert process.returncode == 0, output


@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage != "train"])
def test_a_killed_stage_is_made_whole(bench: Bench, stage: str, rng: random.Random):
    bench.reset(stage)
    before = query(bench.repo, "select run_uuid from runs") if stage != "prepare" else []
    kills = 0
    while kills < max(1, KILLS // 4):
        if disturb(bench, stage, rng):
            kills += 1
        else:
            bench.reset(stage)
    finish(bench, stage)
    bench.is_as_uninterrupted(stage)
    runs = query(bench.repo, "select run_uuid, status from runs")
    assert len(runs) - len(before) == (stage in {"prepare", "baseline"})  # the others go on
    assert {status for _, status in runs} == {"FINISHED"}


def test_a_killed_training_goes_on(bench: Bench, rng: random.Random):
    """In chains: kill, resume, kill and so on until it gets through, with the same adapter and one
    unbroken curve at the end of each.
    """
    kills = 0
    while kills < KILLS:
        bench.reset("train")
        while kills < KILLS and disturb(bench, "train", rng):
            kills += 1
        finish(bench, "train")
        bench.is_as_uninterrupted("train")
        assert adapter_sha256(bench.repo / "models" / "adapter") == bench.adapter
        assert mlflow_curve(bench.repo) == bench.curve
        drawn = board_curve(bench.repo)
        assert drawn.keys() == bench.curve.keys()
        for name, points in bench.curve.items():
            assert drawn[name] == [(step, pytest.approx(value)) for step, value in points]


def test_a_checkpoint_cut_in_half_is_not_gone_on_from(bench: Bench):
    bench.reset("train")
    process = start(bench.repo, "train")
    checkpoints = bench.repo / "checkpoints"
    while not (sealed := list(checkpoints.glob("*/checkpoint-1?/manifest.json"))):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    found = sealed[0].parents[1].glob("checkpoint-*/optimizer.pt")
    last = max((path.parent for path in found), key=lambda path: int(path.name.split("-")[1]))
    weights = last / "optimizer.pt"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    process = start(bench.repo, "train")
    output, _ = process.communicate()
    assert process.returncode == 0, output
    assert f"{last.name}: not complete, deleted" in output
    bench.is_as_uninterrupted("train")
    assert adapter_sha256(bench.repo / "models" / "adapter") == bench.adapter


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_dvc_told_to_stop_leaves_a_checkpoint_of_the_step(bench: Bench, number: int):
    """Nothing else would have saved one: `save_every` is beyond the training's end."""
    bench.reset("train")
    set_param(bench.repo, "train.save_every", 1000)
    process = start(bench.repo, "train")
    while not query(bench.repo, "select * from metrics where key = 'train/loss'"):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    if number == signal.SIGTERM:
        process.send_signal(number)  # to dvc alone, which hands nothing on and dies
    else:
        os.killpg(process.pid, number)  # as a terminal does
    output, _ = process.communicate()
    assert process.returncode != 0
    assert "stopping with a checkpoint" in output
    (manifest,) = (bench.repo / "checkpoints").glob("*/checkpoint-*/manifest.json")
    finish(bench, "train")
    assert adapter_sha256(bench.repo / "models" / "adapter") == bench.adapter
    assert not manifest.exists()
