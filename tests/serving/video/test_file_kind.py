"""A file is what its bytes say."""

import av
import numpy as np
import pytest

from llava_dvc.serving.video.file_kind import file_kind
from llava_dvc.serving.video.sampling import sample_video
from tests.conftest import frame
from tests.serving.video.clips import moving, write_clip


@pytest.mark.parametrize(
    ("name", "codec", "kind"),
    [
        ("clip.mts", "libx264", "mpegts"),
        ("clip.3gp", "libx264", "3gp"),
        ("clip.asf", "mpeg4", "asf"),
        ("clip.h264", "libx264", "h264"),
        ("clip.265", "libx265", "hevc"),
        ("clip.flv", "flv", "flv"),
        ("clip.vob", "mpeg2video", "vob"),
        ("clip.ogv", "libvpx", "ogg"),
        ("clip", "libx264", "mp4"),
        ("clip.dav.part", "libx264", "matroska"),
        ("clip.jpg", "libx264", "mp4"),
        ("clip.mjpg", "mjpeg", "mjpeg"),
        ("12:30:00.mp4", "libx264", "mp4"),
    ],
)
def test_a_video_is_known_by_its_bytes(tmp_path, name, codec, kind):
    path = write_clip(tmp_path / name, moving(50), codec, kind=kind)
    assert file_kind(path) == "video"
    assert [round(seconds) for seconds, _ in sample_video(path, 1.0)] == [0, 1]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"])
@pytest.mark.parametrize("name", ["a", "a.mp4", "a.ts", "a.txt"])
def test_a_picture_is_known_by_its_bytes(tmp_path, kind, name):
    frame(1).save(tmp_path / name, kind)
    assert file_kind(tmp_path / name) == "image"


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("notes.txt", b"BMW and others\n" * 99, None),
        ("labels.csv", b"frame,count\na.jpg,3\n", None),
        ("list.txt", b"ffconcat version 1.0\nfile clip.mp4\n", None),
        ("live.m3u8", b"#EXTM3U\n#EXTINF:1,\nclip.mp4\n", None),
        ("empty", b"", None),
        ("random", np.random.default_rng(0).bytes(200_000), None),
        ("zeros", bytes(100_000), None),
        ("bad.jpg", b"no picture", "image"),
        ("bad.mp4", b"no video", "video"),
        ("empty.png", b"", "image"),
        ("a.heic", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "image"),
    ],
)
def test_the_suffix_decides_only_if_the_bytes_are_unknown(tmp_path, name, content, kind):
    (tmp_path / name).write_bytes(content)
    write_clip(tmp_path / "clip.mp4", moving(12))
    assert file_kind(tmp_path / name) == kind


def test_sound_is_no_video(tmp_path):
    path = tmp_path / "sound.wav"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("pcm_s16le", rate=8000, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), dtype=np.int16), layout="mono")
        sound.sample_rate = 8000
        out.mux(stream.encode(sound))
        out.mux(stream.encode())
    assert file_kind(path) is None
