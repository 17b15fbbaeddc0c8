"""`llava-dvc watch`, the command."""

import csv
import json
import sys

import pytest

from llava_dvc import cli
from llava_dvc.recipe import adapter_sha256
from llava_dvc.serving import server
from llava_dvc.serving.watch.camera import camera_state
from llava_dvc.serving.watch.camera.camera_state import CameraState
from llava_dvc.serving.watch.camera.history import MINUTES
from tests.serving.video.clips import moving, write_clip
from tests.serving.watch.readings import reading


@pytest.fixture
def run_watch(monkeypatch, adapter_folder, capsys):
    """Runs the command until its files end; returns standard output, its log and how it stopped."""

    monkeypatch.setattr(server, "GRACE_SECONDS", 0.05)

    def call(*arguments, adapter=adapter_folder):
        command = ["llava-dvc", "watch", *map(str, arguments), "--adapter", str(adapter)]
        monkeypatch.setattr(sys, "argv", [*command, "--port", "0"])
        stopped = None
        try:
            cli.main()
        except SystemExit as stop:
            stopped = str(stop)
        return (*capsys.readouterr(), stopped)

    return call


def test_rows_go_to_the_files_of_the_days_and_alerts_to_the_log(run_watch, short_clip, tmp_path):
    _, log, stopped = run_watch(
        f"hall={short_clip}", "--realtime", "--every", "0.3", "--out", tmp_path / "out",
        "--format", "csv", "--alert", "hall < 1000 for 0.5s",
    )  # fmt: skip
    assert stopped is None
    rows = [row for file in (tmp_path / "out").glob("*.csv") for row in csv.DictReader(file.open())]
    assert len(rows) >= 3
    assert {row["camera"] for row in rows} == {"hall"}
    assert "listening on http://127.0.0.1:" in log
    assert "hall: live, 160x120" in log
    assert log.count("alert on: hall < 1000 for 0.5s") == 1


def test_rows_go_to_standard_output_and_a_broken_file_is_named_at_the_end(
    run_watch, short_clip, tmp_path, adapter_folder
):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    output, log, stopped = run_watch(short_clip, f"bad={broken}", "--realtime", "--every", "0.3")
    found = [json.loads(line) for line in output.splitlines()]
    assert {(row["camera"], row["distance"]) for row in found} == {("short", None)}
    assert {row["adapter"] for row in found} == {adapter_sha256(adapter_folder)[:12]}
    assert log.count("the adapter does not know how its training frames look") == 1
    assert stopped == "error: bad: Invalid data found when processing input"


def test_every_zone_has_a_row_and_an_alert(run_watch, tmp_path, zoned_folder):
    clip = write_clip(tmp_path / "hall.mp4", moving(25))
    output, log, stopped = run_watch(
        clip, "--realtime", "--every", "0.3", "--zone", "door", "--zone", "tills",
        "--alert", "hall/door < 1000 for 0.2s", adapter=zoned_folder,
    )  # fmt: skip
    assert stopped is None
    rows = [json.loads(line) for line in output.splitlines()]
    assert [row["zone"] for row in rows] == ["door", "tills"] * (len(rows) // 2)
    assert log.count("alert on: hall/door < 1000 for 0.2s") == 1
    _, _, stopped = run_watch(f"a={clip}", "--realtime", "--zone", "door", adapter=zoned_folder)
    assert stopped.startswith("error: zone door: has no outline for the camera a, only for hall.")


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--every", "0"], "error: --every: is 0. Set it to seconds above 0."),
        (["--stall", "nan"], "error: --stall: is nan. Set it to seconds above 0."),
        (["--alert", "door > 1 for 1s"], "there is no camera door"),
        (["--zone", "tills"], "error: zone tills: the adapter knows no zone."),
        (["--alert", "hall/tills > 1 for 1s"], "no zone is counted. Leave out /tills."),
        (["--webhook", "http://a/b"], "error: LLAVA_DVC_WEBHOOK_SECRET: is not set"),
    ],
)
def test_a_wrong_option_is_one_line_before_the_model_is_loaded(
    run_watch, short_clip, arguments, error
):
    output, log, stopped = run_watch(f"hall={short_clip}", "--realtime", *arguments)
    assert error in stopped
    assert (output, log) == ("", "")


def test_a_count_is_shown_only_while_it_is_fresh(monkeypatch):
    monkeypatch.setattr(camera_state, "FRESH_SECONDS", 15.0)
    state = CameraState(every=2.0)
    none = (None,) * MINUTES
    assert state.view(0.0)[:4] == ("connecting", None, ((None, None, none),), 0)
    state.add_frame(10.0)
    state.add_reading(10.0, reading(0, 7))
    assert (state.view(12.0).frame_age, state.view(12.0).reading) == (2.0, reading(0, 7))
    state.lose("the stream ended")
    late = state.view(25.1)
    assert (late.connection, late.reading, late.reason) == ("waiting", None, "the stream ended")
    assert late.frame_age == pytest.approx(15.1)
    slow = CameraState(every=60.0)
    slow.add_reading(0.0, reading(0, 7))
    assert slow.view(170.0).reading == reading(0, 7)
    assert slow.view(190.0).reading is None
