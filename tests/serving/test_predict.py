"""`llava-dvc predict` on pictures and videos."""

import csv
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from llava_dvc import cli
from llava_dvc.errors import UserError
from llava_dvc.serving import video
from llava_dvc.serving.counter import Counter
from llava_dvc.serving.overlay import Point, timeline
from llava_dvc.serving.predict import ahead, find, in_parallel
from tests.conftest import frame

SIZE = 64, 48


@pytest.fixture
def predict(monkeypatch, tmp_path, capsys, adapter_folder):
    """Runs `llava-dvc predict` in an empty folder; returns what it wrote to standard output."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        command = ["llava-dvc", "predict", *arguments, "--adapter", str(adapter_folder)]
        monkeypatch.setattr(sys, "argv", command)
        try:
            cli.main()
        except SystemExit as stop:
            return capsys.readouterr().out, str(stop)
        return capsys.readouterr().out, None

    return call


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "cam"
    folder.mkdir()
    for number in (1, 2, 10):
        frame(number).save(folder / f"{number}.png")
    (folder / "notes.txt").write_text("not a picture")
    return folder


@pytest.fixture
def clip(tmp_path):
    """Five seconds at eight frames a second, brighter with every second."""
    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=8)
        stream.width, stream.height = SIZE
        stream.pix_fmt = "yuv420p"
        for index in range(40):
            image = Image.new("RGB", SIZE, (40 * (index // 8) + 30,) * 3)
            out.mux(stream.encode(av.VideoFrame.from_image(image)))
        out.mux(stream.encode())
    return path


def rows(output):
    return list(csv.DictReader(output.splitlines()))


def test_csv_holds_what_counter_counts(predict, pictures, adapter_folder):
    output, error = predict("cam")
    assert error is None
    assert output.splitlines()[0] == "frame,count,low,high"
    names = ["cam/1.png", "cam/2.png", "cam/10.png"]
    assert [row["frame"] for row in rows(output)] == names
    counts = Counter.from_pretrained(adapter_folder).count(names)
    assert [(row["count"], row["low"], row["high"]) for row in rows(output)] == [
        (str(one.count), str(one.low), str(one.high)) for one in counts
    ]


def test_json_lines_hold_the_likeliest_counts(predict, pictures):
    output, _ = predict("cam/2.png", "--format", "jsonl")
    row = json.loads(output)
    assert row["frame"] == "cam/2.png"
    assert row["low"] <= row["count"] <= row["high"]
    shares = [likely["probability"] for likely in row["most_likely"]]
    assert len(shares) == 5
    assert shares == sorted(shares, reverse=True)


def test_a_terminal_gets_a_table_that_lines_up(predict, pictures, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    output, _ = predict("cam")
    header, *lines = output.splitlines()
    assert header.split()[:2] == ["frame", "count"]
    at = header.index("most likely")
    assert len(lines) == 3
    assert all("%)" in line[at:] and line[at - 1] == " " for line in lines)


def test_unreadable_files_are_named_when_all_else_is_counted(predict, pictures, clip):
    (pictures / "3.png").write_bytes(b"not a picture")
    (pictures / "4.png").touch()
    clip.with_name("bad.mp4").write_bytes(b"not a video")
    output, error = predict("cam", "bad.mp4", "clip.mp4", "--every", "2")
    names = ["cam/1.png", "cam/2.png", "cam/10.png", "clip.mp4#t=0", "clip.mp4#t=2", "clip.mp4#t=4"]
    assert [row["frame"] for row in rows(output)] == names
    head, *failed = error.splitlines()
    assert head == "error: 3 of 7 could not be read; all else is counted:"
    assert [line.partition(":")[0] for line in failed] == ["cam/3.png", "cam/4.png", "bad.mp4"]


def test_frames_are_written_with_their_counts_on_them(predict, pictures, clip):
    Image.new("RGB", (320, 240), "white").save(pictures / "white.png")
    predict("cam/white.png", "clip.mp4", "--annotate", "seen")
    seen = pictures.with_name("seen")
    names = ["cam_white.png.jpg", *(f"clip.mp4_{second:08.2f}s.jpg" for second in range(5))]
    assert sorted(path.name for path in seen.iterdir()) == names
    drawn = np.asarray(Image.open(seen / "cam_white.png.jpg"))
    assert drawn.shape == (240, 320, 3)
    assert drawn[:40, :120].mean() < 200
    assert drawn[60:].mean() > 254


def test_the_count_over_time_is_drawn(predict, clip):
    predict("clip.mp4", "--timeline", "drawn/count.png")
    assert Image.open(clip.with_name("drawn") / "count.png").size[0] > 900


def test_timeline_shows_the_band(tmp_path):
    narrow, wide = tmp_path / "narrow.png", tmp_path / "wide.png"
    timeline([Point(float(second), 19, 20, 21) for second in range(9)], narrow)
    timeline([Point(float(second), 2, 20, 21) for second in range(9)], wide)
    coloured = [(np.asarray(Image.open(path).convert("HSV"))[..., 1] > 20).sum()
                for path in (narrow, wide)]  # fmt: skip
    assert coloured[1] > 3 * coloured[0]


def test_samples_are_the_frames_of_their_times(clip):
    sampled = list(video.sample(clip, 1.5))
    assert [seconds for seconds, _ in sampled] == [0, 1.5, 3, 4.5]
    brightness = [np.asarray(image).mean() for _, image in sampled]
    np.testing.assert_allclose(brightness, [30, 70, 150, 190], atol=6)
    assert video.expected_frames(clip, 1.5) == 4


def test_what_stands_before_a_video_breaks_off_is_given(clip, tmp_path):
    cut = tmp_path / "cut.ts"
    with av.open(str(clip)) as source, av.open(str(cut), "w", format="mpegts") as out:
        stream = out.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                out.mux(packet)
    data = cut.read_bytes()
    cut.write_bytes(data[: len(data) // 2])
    assert 1 <= len(list(video.sample(cut, 1.0))) < 5


def test_a_video_without_pictures_is_named(tmp_path):
    path = tmp_path / "sound.mkv"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("pcm_s16le", rate=8000, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), dtype=np.int16), layout="mono")
        sound.sample_rate = 8000
        out.mux(stream.encode(sound))
        out.mux(stream.encode())
    with pytest.raises(UserError, match=r"sound\.mkv: holds no picture"):
        list(video.sample(path, 1.0))


def test_globs_folders_and_files_are_found_once_in_natural_order(pictures, clip, monkeypatch):
    monkeypatch.chdir(pictures.parent)
    found = [path.as_posix() for path in find(["cam/10.png", "cam", "*.mp4", "cam/*"])]
    assert found == ["cam/10.png", "cam/1.png", "cam/2.png", "clip.mp4"]


def test_nothing_behind_a_glob_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"\*\.jpg: not there; mend the path"):
        find([str(tmp_path / "*.jpg")])


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--every", "0"], "--every: is 0, expected seconds above 0"),
        (["--timeline", "count.txt"], "--timeline: is count.txt, expected a name that ends in"),
        (["--annotate", "clip.mp4"], r"clip.mp4: cannot be made (File exists)"),
        (["--timeline", "clip.mp4/a.png"], "clip.mp4: cannot be made"),
    ],
)
def test_what_would_fail_in_the_end_fails_first(predict, clip, arguments, error):
    output, said = predict("clip.mp4", *arguments)
    assert output == ""
    assert said.startswith(f"error: {error}")


def test_a_reader_that_has_seen_enough_is_no_fault(pictures, adapter_folder):
    command = [Path(sys.executable).with_name("llava-dvc"), "predict", *[pictures] * 3]
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [*command, "--adapter", adapter_folder],
        stdout=writing, stderr=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    os.close(writing)
    assert done.returncode == 1
    assert "Error" not in done.stderr


def test_decoding_runs_in_parallel_keeps_order_and_is_bounded():
    running, most, lock = 0, 0, threading.Lock()

    def work(number):
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.002 * (number % 3))
        with lock:
            running -= 1
        return number

    started = []
    items = (started.append(number) or number for number in range(40))
    found = in_parallel(work, items, 4)
    assert [next(found), next(found)] == [0, 1]
    assert len(started) <= 2 + 4
    assert list(found) == list(range(2, 40))
    assert 1 < most <= 4


def test_a_thread_runs_ahead_by_no_more_than_asked():
    made = []

    def source():
        for number in range(20):
            made.append(number)
            yield number

    found = ahead(source(), 3)
    assert next(found) == 0
    assert len(made) <= 5
    assert list(found) == list(range(1, 20))


def test_what_goes_wrong_ahead_is_raised():
    def source():
        yield 1
        raise UserError("broken")

    with pytest.raises(UserError, match="broken"):
        list(ahead(source(), 3))
