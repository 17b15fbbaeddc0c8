"""Checkpoints in a bucket: a machine is lost, and another one goes on. The server is moto's."""

import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from llava_dvc.errors import UserError
from llava_dvc.recipe import adapter_sha256
from llava_dvc.training.checkpoint_copies import CopyCheckpoints
from tests.faults.conftest import Bench, mlflow_curve, start
from tests.pipeline.test_pipeline import set_param


def kill_between_two_copies(bench: Bench, bucket: Any) -> int:
    """SIGKILL while the newest copy has no manifest yet. Returns the step of the one before."""
    process = start(bench.repo, "train")
    while True:
        assert process.poll() is None, process.communicate()[0]
        keys = [obj.key.split("/")[2:] for obj in bucket.objects.all()]
        steps = {int(key[0]) for key in keys if len(key) > 1}
        whole = {int(key[0]) for key in keys if key[1:] == ["manifest.json"]}
        if whole and max(whole) >= 8 and max(steps) > max(whole):
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return max(whole)
        time.sleep(0.01)


def test_another_machine_goes_on_from_the_bucket(bench: Bench, bucket: Any):
    bench.reset("train")
    set_param(bench.repo, "train.checkpoint_to", "s3://llava/checkpoints")
    kill_between_two_copies(bench, bucket)
    shutil.rmtree(bench.repo / "checkpoints")
    process = start(bench.repo, "train")
    output, _ = process.communicate()
    assert process.returncode == 0, output
    assert "train: resumes from the checkpoint of step" in output
    assert "a-word-of-theirs" not in output
    assert adapter_sha256(bench.repo / "models" / "adapter") == bench.adapter
    assert mlflow_curve(bench.repo) == bench.curve
    now, then = (yaml.safe_load(text)["stages"]["train"] for text in (bench.dvc_lock(), bench.lock))
    assert now["outs"] == then["outs"]
    assert not list(bucket.objects.all())


def test_a_bucket_that_is_not_there_is_one_line(bucket: Any, tmp_path: Path):
    with pytest.raises(UserError) as error:
        CopyCheckpoints("s3://another/checkpoints", "key", tmp_path)
    (line,) = str(error.value).splitlines()
    place = "train.checkpoint_to: nothing can be written to s3://another/checkpoints"
    assert line.startswith(f"{place} (The specified bucket does not exist)")
