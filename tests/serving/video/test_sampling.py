"""Frames taken from a video."""

import av
import numpy as np
import pytest

from llava_dvc.errors import UserError
from llava_dvc.serving.video.sampling import estimate_frames, sample_video


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
