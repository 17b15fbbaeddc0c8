"""The command `llava-dvc predict` on image files and videos."""

import csv
import io
import json
import os
import shutil
import subprocess
import sys
from functools import partial
from io import BytesIO, TextIOWrapper
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from llava_dvc.serving import predict as predict_module
from llava_dvc.serving.counter import Counter
from tests.serving.video import clips


@pytest.fixture
def predict(run_predict, adapter_folder):
    return partial(run_predict, adapter_folder)


def rows(output):
    return list(csv.DictReader(output.splitlines()))


def test_csv_has_the_counts_of_counter(predict, images, adapter_folder):
    output, error = predict("cam")
    assert error is None
    assert output.splitlines()[0] == "frame,count,low,high"
    names = ["cam/1.png", "cam/2.png", "cam/10.png"]
    assert [row["frame"] for row in rows(output)] == names
    counts = Counter.from_pretrained(adapter_folder).count(names)
    assert [(row["count"], row["low"], row["high"]) for row in rows(output)] == [
        (str(one.count), str(one.low), str(one.high)) for one in counts
    ]


def test_each_zone_has_a_row(run_predict, zoned_folder, images):
    zones = ("--zone", "tills", "--zone", "door")
    output, error = run_predict(zoned_folder, "cam", *zones, "--camera", "hall")
    assert error is None
    assert output.splitlines()[0] == "frame,zone,count,low,high"
    names = [(row["frame"], row["zone"]) for row in rows(output)]
    paths = ["cam/1.png", "cam/2.png", "cam/10.png"]
    assert names == [(path, zone) for path in paths for zone in ("tills", "door")]
    counter = Counter.from_pretrained(zoned_folder)
    counts = counter.count(paths, "door", camera="hall")
    assert [int(row["count"]) for row in rows(output)[1::2]] == [one.count for one in counts]
    line, _ = run_predict(zoned_folder, "cam/1.png", *zones[:2], "--format", "jsonl")
    assert json.loads(line)["zone"] == "tills"


def test_zones_that_cannot_be_counted_are_one_line(run_predict, zoned_folder, images):
    two = ("--zone", "tills", "--zone", "door")
    _, error = run_predict(zoned_folder, "cam", *two, "--annotate", "out")
    assert error == (
        "error: --zone: is given 2 times. Give one with --annotate, --timeline or --smooth."
    )
    _, error = run_predict(zoned_folder, "cam", *two)
    assert error.startswith("error: zone door: has no outline for every camera, only for hall.")


def test_an_annotated_frame_shows_its_zone(run_predict, zoned_folder, images):
    run_predict(zoned_folder, "cam/1.png", "--annotate", "out")
    drawn = np.array(Image.open("out/cam_1.png.jpg")).astype(int)
    near = abs(drawn[30:44, 28:33] - np.array([255, 200, 0])).sum(axis=2).min(axis=1)
    assert (near < 90).all()  # a yellow line along the edge at 30


def test_json_lines_have_the_likeliest_counts(predict, images):
    output, _ = predict("cam/2.png", "--format", "jsonl")
    row = json.loads(output)
    assert row["frame"] == "cam/2.png"
    assert row["low"] <= row["count"] <= row["high"]
    shares = [likely["probability"] for likely in row["most_likely"]]
    assert len(shares) == 5
    assert shares == sorted(shares, reverse=True)


def test_a_terminal_gets_an_aligned_table(predict, images, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    output, _ = predict("cam")
    header, *lines = output.splitlines()
    assert header.split()[:2] == ["frame", "count"]
    at = header.index("most likely")
    assert len(lines) == 3
    assert all("%)" in line[at:] and line[at - 1] == " " for line in lines)


def test_large_frames_are_counted_few_at_a_time(predict, images, clip, monkeypatch):
    calls, count = [], Counter.count_in

    def record(counter, pictures, zone, fill):
        calls.append(len(pictures))
        return count(counter, pictures, zone, fill)

    monkeypatch.setattr(Counter, "count_in", record)
    expected, _ = predict("cam", "clip.mp4")
    assert calls == [8]
    monkeypatch.setattr(predict_module, "MAX_CALL_PIXELS", 64 * 48 * 2 + 1)
    output, _ = predict("cam", "clip.mp4")
    assert calls[1:] == [3, 3, 2]
    assert output == expected


ODD = "\x1b]0;evil\x07\x9b31m\u202egpj.png"


def test_a_terminal_obeys_no_name(predict, images, monkeypatch):
    for name in (ODD, "bad" + ODD, "no" + ODD[:-4]):
        (images / name).write_bytes((images / "1.png").read_bytes())
    (images / ("bad" + ODD)).write_bytes(b"no image")
    (images / ("no" + ODD[:-4])).write_bytes(b"neither")
    for form in ("table", "csv", "jsonl"):
        monkeypatch.setattr(sys, "stderr", io.StringIO())
        output, error = predict("cam", "--format", form)
        shown = output + error + sys.stderr.getvalue()
        assert "cam/bad\\x1b]0;evil" in error
        assert "no\\x1b]0;evil" in sys.stderr.getvalue()
        assert all(char.isprintable() or char == "\n" for char in shown)
        if form == "jsonl":
            assert f"cam/{ODD}" in [json.loads(line)["frame"] for line in output.splitlines()]


def test_a_spreadsheet_runs_no_name(predict, images):
    names = ["=1.png", "+1.png", "-1.png", "@1.png"]
    for name in names:
        shutil.copy(images / "1.png", images.with_name(name))
    output, _ = predict("*.png")
    assert sorted(row["frame"] for row in rows(output)) == sorted(f"./{name}" for name in names)
    output, _ = predict("*.png", "--format", "jsonl")
    assert sorted(json.loads(line)["frame"] for line in output.splitlines()) == sorted(names)


def test_unreadable_files_are_listed_after_all_others_are_counted(predict, images, clip):
    (images / "3.png").write_bytes(b"no image")
    (images / "4.png").touch()
    clip.with_name("bad.mp4").write_bytes(b"not a video")
    output, error = predict("cam", "bad.mp4", "clip.mp4", "--every", "2")
    names = ["cam/1.png", "cam/2.png", "cam/10.png", "clip.mp4#t=0", "clip.mp4#t=2", "clip.mp4#t=4"]
    assert [row["frame"] for row in rows(output)] == names
    head, *failed = error.splitlines()
    assert head == "error: 3 of 7 files are unreadable. All others are counted."
    assert [line.partition(":")[0] for line in failed] == ["cam/3.png", "cam/4.png", "bad.mp4"]


def test_a_damaged_video_is_counted_around_the_damage(predict, clip):
    def change(number, packet):
        if number == 16:
            packet.update(bytes(packet.size))

    clips.copy_packets(
        clips.write_clip(clip.with_name("whole.mp4"), clips.moving(75), gop=15),
        clip.with_name("bad.mp4"),
        change,
    )
    output, error = predict("bad.mp4", "clip.mp4", "--every", "0.2")
    times = [row["frame"] for row in rows(output) if row["frame"].startswith("bad")]
    assert 10 <= len(times) < 15
    assert len(rows(output)) == len(times) + 25
    head, line = error.splitlines()
    assert head == "error: 1 of 2 files are unreadable or have gaps. All else is counted."
    assert line.startswith("bad.mp4: 1 decoding error, from 0.")
    assert line.endswith(
        " s. The frames of this time are left out. Copy the file again from its source."
    )


def test_annotate_draws_the_count_on_the_frame(predict, images, clip):
    Image.new("RGB", (320, 240), "white").save(images / "white.png")
    predict("cam/white.png", "clip.mp4", "--annotate", "seen")
    seen = images.with_name("seen")
    names = ["cam_white.png.jpg", *(f"clip.mp4_{second:08.2f}s.jpg" for second in range(5))]
    names.append("clip.mp4_counted.mp4")
    assert sorted(path.name for path in seen.iterdir()) == names
    drawn = np.asarray(Image.open(seen / "cam_white.png.jpg"))
    assert drawn.shape == (240, 320, 3)
    assert drawn[:40, :120].mean() < 200
    assert drawn[60:].mean() > 254


def test_timeline_is_written(predict, clip):
    predict("clip.mp4", "--timeline", "drawn/count.png")
    assert Image.open(clip.with_name("drawn") / "count.png").size[0] > 900


@pytest.mark.parametrize(
    ("encoding", "name", "escaped"),
    [("ascii", "caf\xe9.png", r"caf\xe9.png"), ("utf-8", "a\udcff.png", r"a\udcff.png")],
)
@pytest.mark.parametrize("row_format", ["csv", "jsonl", "table"])
def test_a_name_that_the_output_cannot_encode_loses_no_frame(
    predict, images, monkeypatch, encoding, name, escaped, row_format
):
    (images / "1.png").rename(images / name)
    written = BytesIO()
    monkeypatch.setattr(sys, "stdout", TextIOWrapper(written, encoding=encoding))
    _, error = predict(f"cam/{name}", "cam/2.png", "--format", row_format)
    assert error is None
    first, second = written.getvalue().decode(encoding).splitlines()[-2:]
    assert "cam/2.png" in second
    if row_format == "jsonl":
        assert json.loads(first)["frame"] == f"cam/{name}"
    else:
        assert escaped in first


def test_a_full_disk_is_one_line(predict, images, monkeypatch):
    with Path("/dev/full").open("w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        _, error = predict("cam")
    assert error == (
        "error: standard output: cannot be written (No space left on device). Free some space, or "
        "write it to another disk."
    )


@pytest.mark.parametrize(
    ("option", "partial", "file"),
    [
        (["--annotate", "out"], "cam_1.png.jpg", "cam_1.png.jpg"),
        (["--timeline", "out/t.png"], ".t.png.partial", "t.png"),
    ],
)
def test_a_full_disk_leaves_no_half_picture(predict, images, option, partial, file):
    out = images.with_name("out")
    out.mkdir()
    (out / partial).symlink_to("/dev/full")
    output, error = predict("cam/1.png", *option)
    assert output.startswith("frame,count")
    assert error == (
        f"error: out/{file}: cannot be written (No space left on device). Free some space, or "
        "choose another folder."
    )
    assert not (out / "t.png").exists()


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--every", "0"], "--every: is 0. Set it to seconds above 0."),
        (["--every", "nan"], "--every: is nan. Set it to seconds above 0."),
        (["--every", "inf"], "--every: is inf. Set it to seconds above 0."),
        (["--timeline", "count.txt"], "--timeline: is count.txt. Choose a name that ends in .png."),
        (
            ["--annotate", "clip.mp4"],
            "clip.mp4: cannot be created (File exists). Choose another folder.",
        ),
        (["--timeline", "clip.mp4/a.png"], "clip.mp4: cannot be created"),
        (["--start", "noon"], "--start: is noon. Write a time such as 2026-11-26T08:30."),
        (
            ["cam/1.png", "--start", "2026-11-26"],
            "--start: is 2026-11-26 00:00:00, but is for one video alone. Name one video, or",
        ),
    ],
)
def test_bad_options_are_refused_before_the_model_is_loaded(
    predict, clip, images, arguments, error
):
    output, message = predict("clip.mp4", *arguments)
    assert output == ""
    assert message.startswith(f"error: {error}")


def test_a_closed_pipe_shows_no_traceback(images, adapter_folder):
    command = [Path(sys.executable).with_name("llava-dvc"), "predict", *[images] * 3]
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [*command, "--adapter", adapter_folder],
        stdout=writing, stderr=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    os.close(writing)
    assert done.returncode == 1
    assert "Error" not in done.stderr
