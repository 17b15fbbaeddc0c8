"""Streams over HTTP as libav reads them."""

import functools
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import av
import pytest

from llava_dvc.serving.watch.camera.address import parse_cameras
from llava_dvc.serving.watch.camera.camera_reader import read_failure
from llava_dvc.serving.watch.camera.decoding_load import DecodingLoad
from llava_dvc.serving.watch.camera.live_video import StreamStalled, read_camera
from tests.serving.video.clips import copy_packets


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def site(tmp_path, short_clip):
    """The address of a folder with the clip as MPEG-TS and as HLS."""
    copy_packets(short_clip, tmp_path / "clip.ts", lambda *_: True, "mpegts")
    copy_packets(short_clip, tmp_path / "live.m3u8", lambda *_: True, "hls")
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=tmp_path))
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def frames(address):
    (camera,) = parse_cameras([address], False)
    return list(read_camera(camera, "tcp", 5.0, DecodingLoad(camera.name)))


@pytest.mark.parametrize("name", ["live.m3u8", "clip.ts"])
def test_every_frame_of_a_stream_comes_with_rising_times(site, name):
    found = frames(f"{site}/{name}")
    assert len(found) == 50
    assert found[0].image().size == (160, 120)
    assert [one.came for one in found] == sorted(one.came for one in found)
    assert found[0].time.utcoffset().total_seconds() == 0


def test_a_playlist_cannot_name_files_of_this_machine(site, tmp_path):
    """libav sees to this; a version of it that does not must not be used."""
    text = (tmp_path / "live.m3u8").read_text().replace("live0.ts", f"file://{tmp_path}/clip.ts")
    (tmp_path / "evil.m3u8").write_text(text)
    with pytest.raises((av.FFmpegError, OSError)):
        frames(f"{site}/evil.m3u8")


def test_reasons_are_words_without_addresses(site):
    with pytest.raises((av.FFmpegError, OSError)) as missing:
        frames(f"{site}/geheim.ts")
    assert read_failure(missing.value, 10) == "Server returned 404 Not Found"
    assert read_failure(StreamStalled(), 10) == "no picture for 10 s"
    assert read_failure(KeyError("geheim"), 10) == "KeyError"
