"""Broken packets and lost ones."""

import threading

import numpy as np
import pytest
from PIL import Image

from llava_dvc.serving.video.sampling import DamagedVideo, sample_video
from tests.serving.video.clips import copy_packets, moving, write_clip


def break_packet(*numbers):
    random = np.random.default_rng(1)

    def change(number, packet):
        if number in numbers:
            data = bytearray(bytes(packet))
            middle = slice(len(data) // 4, len(data) // 4 * 3)
            data[middle] = random.bytes(len(data[middle]))
            packet.update(bytes(data))

    return change


def sample(path, every=1.0):
    frames, error = [], None
    try:
        for seconds, image in sample_video(path, every):
            frames.append((seconds, image))
    except DamagedVideo as caught:
        error = str(caught)
    return frames, error


CODECS = [("libx264", "mp4"), ("mpeg4", "avi"), ("mpeg2video", "mpegts")]


@pytest.mark.parametrize(("codec", "kind"), CODECS)
def test_one_broken_packet_costs_the_frames_until_the_next_key_frame(tmp_path, codec, kind):
    clip = write_clip(tmp_path / "whole", moving(150), codec, kind=kind)
    broken = copy_packets(clip, tmp_path / "broken", break_packet(60), kind)
    whole, error = sample(clip, 0.2)
    assert error is None
    left, error = sample(broken, 0.2)
    assert [seconds for seconds, _ in left if seconds < 2.2] == [
        seconds for seconds, _ in whole if seconds < 2.2
    ]
    assert not [seconds for seconds, _ in left if 2.41 < seconds < 2.99]
    assert [seconds for seconds, _ in left][-14:] == [seconds for seconds, _ in whole][-14:]
    good = dict(whole)
    for seconds, image in left:
        assert np.abs(np.asarray(image, float) - np.asarray(good[seconds], float)).max() < 2
    assert " decoding error" in error
    assert " s to 3 s. The frames of this time are left out. Copy the file again" in error


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_frames_that_need_a_lost_one_are_left_out(tmp_path, codec):
    def set_up(stream):
        if codec == "libx265":
            stream.options = {"x265-params": "log-level=none:keyint=25:bframes=0:scenecut=0"}

    clip = write_clip(tmp_path / "whole.mp4", moving(150), codec, set_up)
    lossy = copy_packets(clip, tmp_path / "lossy.mp4", lambda number, _: number not in (60, 61))
    left, error = sample(lossy, 0.2)
    assert not [seconds for seconds, _ in left if 2.45 < seconds < 2.99]
    assert len(left) >= 25
    assert "1 decoding error, from " in error
    assert " s to 3 s." in error


@pytest.mark.parametrize(("codec", "kind"), [("mpeg4", "matroska"), ("flv", "flv")])
def test_grey_frames_before_the_first_key_frame_are_left_out(tmp_path, codec, kind):
    """A recording that starts anywhere. libav draws these frames on a grey picture."""
    clip = write_clip(tmp_path / "whole", moving(100), codec, kind=kind)
    late = copy_packets(clip, tmp_path / "late", lambda number, _: number >= 5, kind)
    left, error = sample(late, 0.2)
    assert left[0][0] == 0.8
    good = dict(sample(clip, 0.2)[0])
    assert np.abs(np.asarray(left[1][1], float) - np.asarray(good[1.2], float)).max() < 2
    assert "1 decoding error, from 0 s to 0.8 s. The frames of this time are left out." in error


def test_lost_transport_packets_are_reported(tmp_path):
    clip = write_clip(tmp_path / "whole.ts", moving(150), kind="mpegts")
    data = bytearray(clip.read_bytes())
    middle = len(data) // 188 // 2
    del data[middle * 188 : (middle + 4) * 188]
    clip.write_bytes(data)
    left, error = sample(clip, 0.2)
    assert 20 <= len(left) < 30
    assert "decoding error" in error


def test_many_errors_are_reported_in_one_line(tmp_path):
    clip = write_clip(tmp_path / "whole.avi", moving(300), "mjpeg")

    def change(number, packet):
        if number % 30 == 5:
            packet.update(bytes(packet.size))

    left, error = sample(copy_packets(clip, tmp_path / "broken.avi", change), 0.04)
    assert len(left) >= 285
    assert "\n" not in error
    assert error.count("from") <= 6


def test_a_file_that_ends_too_early_says_when(tmp_path):
    clip = write_clip(tmp_path / "whole.mp4", moving(150))
    data = clip.read_bytes()
    start, index = data.find(b"mdat"), data[data.find(b"moov") - 4 :]
    size = (8 + 20_000).to_bytes(4, "big")
    clip.write_bytes(data[: start - 4] + size + data[start : start + 4 + 20_000] + index)
    left, error = sample(clip)
    assert left
    assert "to the end" in error


def test_a_reader_that_stops_early_leaves_no_thread_waiting(tmp_path):
    clip = write_clip(tmp_path / "clip.mp4", moving(100))
    done = threading.Event()

    def read():
        for _ in range(5):
            frames = sample_video(clip, 0.04)
            assert isinstance(next(frames)[1], Image.Image)
            frames.close()
        done.set()

    threading.Thread(target=read, daemon=True).start()
    assert done.wait(30)
