"""An input that is edited while DVC runs a stage."""

import time
from pathlib import Path

from llava_dvc.recipe import adapter_sha256
from tests.faults.conftest import Bench, query, start
from tests.pipeline.test_pipeline import set_param


def run_cache(repo: Path) -> set[Path]:
    return {path for path in (repo / ".dvc" / "cache" / "runs").rglob("*") if path.is_file()}


def test_a_learning_rate_edited_during_training_is_not_recorded(bench: Bench):
    """Neither in dvc.lock nor in the run cache. After the edit is undone, training goes on."""
    repo = bench.reset("train")
    lock, cached, params = bench.dvc_lock(), run_cache(repo), (repo / "params.yaml").read_text()
    process = start(repo, "train")
    while not query(repo, "select * from metrics where key = 'train/loss'"):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    set_param(repo, "train.learning_rate", 1e-3)
    output, _ = process.communicate()
    assert process.returncode != 0
    assert (
        "error: params.yaml: train.learning_rate has changed from 0.0005 to 0.001 since train "
        "started. DVC records no result. Run `dvc repro` again.\n"
    ) in output
    assert "Traceback" not in output
    assert (bench.dvc_lock(), run_cache(repo)) == (lock, cached)
    assert not (repo / "models" / "adapter").exists()
    assert len(query(repo, "select * from runs where status = 'FAILED'")) == 1

    edited = (repo / "params.yaml").read_text()
    (repo / "params.yaml").write_text(params)
    output, _ = start(repo, "train").communicate()
    assert "is cached" not in output
    bench.is_as_uninterrupted("train")
    assert adapter_sha256(repo / "models" / "adapter") == bench.adapter

    (repo / "params.yaml").write_text(edited)
    output, _ = start(repo, "train").communicate()
    assert "is cached" not in output
    assert adapter_sha256(repo / "models" / "adapter") != bench.adapter
    assert "learning_rate: 0.001" in bench.dvc_lock()
