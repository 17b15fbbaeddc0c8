"""`llava-dvc drift`: the report, its errors, and its run in MLflow."""

import re
import shutil
import sys
from pathlib import Path

import pandas as pd
import pytest

from benchmarks.drift_alarms import crowd, simulated_rows
from llava_dvc import cli
from llava_dvc.recipe import adapter_sha256
from llava_dvc.serving.watch.reading import Interval, Reading
from llava_dvc.serving.watch.reading_log import ReadingLog
from llava_dvc.tracking.experiments import result_runs
from llava_dvc.tracking.mlflow_store import EXPERIMENT
from tests.conftest import ROOT
from tests.publishing.published import publish


@pytest.fixture(scope="module")
def published(cfg, tmp_path_factory):
    """Its held-out labels are within 0 to 49 people, its intervals 6 wide."""
    return publish(cfg, tmp_path_factory.mktemp("work"))


@pytest.fixture
def run_drift(monkeypatch, tmp_path, capsys, published):
    """Runs the command in `tmp_path`; returns what it says."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments, adapter=published):
        command = ["llava-dvc", "drift", *map(str, arguments), "--adapter", str(adapter)]
        monkeypatch.setattr(sys, "argv", command)
        try:
            cli.main()
        except SystemExit as stop:
            return str(stop)
        return capsys.readouterr().out

    return call


@pytest.fixture
def write_rows(tmp_path, published):
    """Writes day files as `watch` does, a row every ten minutes, and returns them."""

    def write(rows, adapter=None):
        log = ReadingLog(tmp_path / "out", "jsonl")
        for row in rows[rows["time"].dt.minute % 10 == 0].itertuples():
            low = max(0, row.people - row.width // 2)
            interval = Interval(row.people, low, low + row.width)
            digits = adapter or adapter_sha256(published)[:12]
            log.write(
                Reading(
                    row.time.to_pydatetime(), row.camera, interval, zone=row.zone or None,
                    distance=row.distance, adapter=digits,
                )
            )  # fmt: skip
        log.close()
        return sorted((tmp_path / "out").glob("*.jsonl"))

    return write


def two_cameras(days=14):
    """At the hall nothing changes; at the door it becomes crowded."""
    hall, door = simulated_rows(1, days), simulated_rows(2, days).assign(camera="door<b>|")
    crowd(door)
    door["people"] += 20
    return pd.concat([hall, door]).sort_values("time", kind="stable")


def test_the_report_begins_with_its_answer_and_has_a_picture_for_each_camera(
    run_drift, write_rows, tmp_path
):
    said = run_drift(*write_rows(two_cameras()))
    answer = said.splitlines()[0]
    assert re.fullmatch(
        r"Label again, because of door<b>\|: \d+% of its counts are not within 0 to 49, where the "
        r"held-out labels are\.", answer,
    )  # fmt: skip
    markdown = (tmp_path / "drift" / "report.md").read_text()
    assert markdown.splitlines()[0] == "# Drift of the readings: the last 7 days"
    assert markdown.splitlines()[4].startswith("Label again, because of door&lt;b&gt;\\|: ")
    door, hall = re.findall(r"^\| (?:door|hall).*", markdown, re.MULTILINE)
    assert door.endswith("| label again |")
    assert hall.startswith("| hall | 168 | 2")
    assert hall.endswith("| no need |")
    assert "The adapter does not know how its training frames look" in markdown
    assert len(list((tmp_path / "drift").glob("camera-*.png"))) == 2
    page = (tmp_path / "drift" / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 2
    assert "door<b>" not in page


def test_one_camera_of_one_day_that_is_as_before(run_drift, write_rows, tmp_path):
    said = run_drift(*write_rows(simulated_rows(1, 1)), "--days", "1", "--out", "day")
    assert said.startswith("No need to label again: in the last day, the readings of hall differ")
    assert (tmp_path / "day" / "report.html").is_file()
    assert not (tmp_path / "mlflow.db").exists(), "there is no repository, and no store is made"


def test_it_is_a_run_in_mlflow_that_is_no_training_and_no_result(
    run_drift, write_rows, tmp_path, store
):
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    files = write_rows(simulated_rows(1))
    first, second = run_drift(*files), run_drift(*files)
    client = store()
    (experiment,) = client.search_experiments(filter_string=f"name = '{EXPERIMENT}'")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.data.tags["stage"] == "drift"
    assert first == second
    assert first.startswith(run.data.tags["answer"])
    assert run.data.tags["mlflow.note.content"].startswith("Drift: No need to label again")
    assert run.data.params == {"days": "7"}
    assert run.data.metrics["marked"] == 0
    assert 20 < run.data.metrics["hall.people"] < 28
    names = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert names == {"report.md", "report.html", "camera-1.png"}
    assert result_runs() == []
    assert client.search_registered_models() == []


def test_what_cannot_be_compared_is_one_line(run_drift, write_rows, tmp_path, published):
    few = write_rows(simulated_rows(1, 1)[:300])
    assert run_drift(*few).startswith("error: --days 7: no camera has readings that can be used of")
    (tmp_path / "frames").mkdir()
    (tmp_path / "frames" / "mine.txt").touch()
    assert run_drift(*few, "--out", "frames").startswith("error: --out: frames exists and is no")
    assert "evaluate.json: is missing or lacks" in run_drift(
        *few, adapter=published.parent / "adapter"
    )
    assert "recipe.json: not found" in run_drift(*few, adapter=tmp_path)
    assert not (tmp_path / "drift").exists()


def test_readings_of_another_adapter_or_of_two_are_one_line(run_drift, write_rows, published):
    rows = simulated_rows(1)
    files = write_rows(rows[:17000], adapter="ba9876543210")
    known = adapter_sha256(published)[:12]
    assert run_drift(*files).startswith(
        f"error: --adapter {published}: is {known}, and the readings are of ba9876543210. Name"
    )
    files = write_rows(rows[17000:])
    assert run_drift(*files).startswith("error: the readings are of 2 adapters (")
    assert run_drift(*files, "--days", "1").startswith("No need to label again")
    assert "(before: " not in Path("drift", "report.md").read_text(), "another adapter has counted"
