"""Frames taken from a video."""

import av
import numpy as np
import pytest

from llava_dvc.errors import UserError
from llava_dvc.serving.video import sampling
from llava_dvc.serving.video.sampling import (
    DamagedVideo,
    estimate_frames,
    recording_start,
    sample_video,
)
from tests.serving.video.clips import moving, write_clip


def test_a_frame_is_sampled_every_so_many_seconds(clip):
    sampled = list(sample_video(clip, 1.5))
    assert [seconds for seconds, _ in sampled] == [0, 1.5, 3, 4.5]
    brightness = [np.asarray(image).mean() for _, image in sampled]
    np.testing.assert_allclose(brightness, [30, 70, 150, 190], atol=6)
    assert estimate_frames(clip, 1.5) == 4


def test_frames_before_a_break_are_yielded(clip, tmp_path):
    cut = tmp_path / "cut.ts"
    with av.open(str(clip)) as source, av.open(str(cut), "w", format="mpegts") as out:
        stream = out.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                out.mux(packet)
    data = cut.read_bytes()
    cut.write_bytes(data[: len(data) // 2])
    assert 1 <= len(list(sample_video(cut, 1.0))) < 5


def test_a_file_without_video_is_an_error(tmp_path):
    path = tmp_path / "sound.mkv"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("pcm_s16le", rate=8000, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), dtype=np.int16), layout="mono")
        sound.sample_rate = 8000
        out.mux(stream.encode(sound))
        out.mux(stream.encode())
    with pytest.raises(UserError, match=r"sound\.mkv: contains sound or text, but no video"):
        list(sample_video(path, 1.0))


def raw_video(path, width, height, aspect="1:1"):
    """One grey frame, without a byte of it on the disk."""
    head = f"YUV4MPEG2 W{width} H{height} F8:1 Ip A{aspect} C420jpeg\nFRAME\n".encode()
    with path.open("wb") as file:
        file.write(head)
        file.truncate(len(head) + width * height * 3 // 2)
    return path


@pytest.mark.parametrize(
    ("width", "height", "aspect", "line"),
    [
        (8000, 8000, "1:1", "its picture is 8000x8000, more than 36,000,000 pixels. Make it small"),
        (1000, 40_000, "1:1", "its picture is 1000x40000, more than 36,000,000 pixels. Make it"),
        (16, 4096, "1:1", "its picture is 16x4096, over 16 times as long as wide; cut out"),
        (2000, 200, "8:1", "its picture is 16000x200, over 16 times as long as wide"),
        (3000, 3000, "8:1", "its picture is 24000x3000, more than 64,000,000 pixels."),
        (8, 8, "1:1", "its picture is 8x8, less than 16 pixels on a side"),
    ],
)
def test_a_video_has_the_limits_of_a_picture(tmp_path, width, height, aspect, line):
    path = raw_video(tmp_path / "a.y4m", width, height, aspect)
    with pytest.raises(UserError) as caught:
        list(sample_video(path, 1.0))
    assert str(caught.value).startswith(f"{path}: {line}")


def test_a_frame_larger_than_the_header_says_is_an_error(tmp_path, monkeypatch):
    sizes = (160, 120), (320, 240)
    clips = [
        write_clip(
            tmp_path / f"{size[0]}.h264",
            moving(10, size),
            set_up=lambda stream, size=size: set_size(stream, size),
        )
        for size in sizes
    ]
    growing = tmp_path / "growing.h264"
    growing.write_bytes(b"".join(clip.read_bytes() for clip in clips))
    assert {image.size for _, image in sample_video(growing, 0.04)} == set(sizes)
    monkeypatch.setattr(sampling, "MAX_FRAME_PIXELS", 30_000)
    frames = sample_video(growing, 0.04)
    with pytest.raises(DamagedVideo, match=r"decoding error, from 0\.\d+ s to the end"):
        assert all(image.size == sizes[0] for _, image in frames)


def set_size(stream, size):
    stream.width, stream.height = size


@pytest.mark.parametrize(
    ("tags", "start"),
    [
        ({}, None),
        ({"creation_time": "2026-11-26T08:29:00Z"}, "2026-11-26T08:29:00+00:00"),
        ({"creation_time": "1970-01-01T00:00:00Z"}, None),
        ({"com.apple.quicktime.creationdate": "2026-11-26T08:29:00+0100",
          "creation_time": "2026-11-26T09:00:00Z"}, "2026-11-26T08:29:00+01:00"),
    ],
)  # fmt: skip
def test_the_file_says_when_it_was_recorded(tmp_path, tags, start):
    with av.open(str(tmp_path / "a.mov"), "w", options={"movflags": "use_metadata_tags"}) as out:
        out.metadata.update(tags)
        stream = out.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        out.mux(stream.encode(av.VideoFrame(64, 48, "yuv420p")))
        out.mux(stream.encode())
    found = recording_start(tmp_path / "a.mov")
    assert (found and found.isoformat()) == start
    assert recording_start(tmp_path / "gone.mov") is None
