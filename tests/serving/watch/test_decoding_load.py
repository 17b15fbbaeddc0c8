"""A camera that sends more than can be decoded."""

import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise

import av
import pytest
from av.video.frame import PictureType

from llava_dvc.serving.video.decoder import VideoDecoder
from llava_dvc.serving.watch.camera import decoding_load
from llava_dvc.serving.watch.camera.address import parse_cameras
from llava_dvc.serving.watch.camera.decoding_load import FIRST_WAIT, WINDOW, DecodingLoad
from llava_dvc.serving.watch.camera.live_video import LiveDecoder, read_camera
from tests.serving.video.clips import RATE, moving, write_clip

SECONDS = 24


class LiveServer(ThreadingHTTPServer):
    """Sends a file over HTTP at the speed at which it plays."""

    daemon_threads = True

    def __init__(self, path):
        super().__init__(("127.0.0.1", 0), LiveStream)
        self.content = path.read_bytes()
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()


class LiveStream(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        steps = SECONDS * 20
        size = len(self.server.content) // steps + 1
        with suppress(OSError):
            for step in range(steps):
                self.wfile.write(self.server.content[step * size : (step + 1) * size])
                time.sleep(1 / 20)

    def log_message(self, *_):
        pass


@pytest.fixture(params=[0, 3], ids=["plain", "b-frames"])
def clip(request, tmp_path):
    """Every twelfth frame is a key frame."""

    def b_frames(stream):
        stream.codec_context.max_b_frames = request.param
        stream.options = {"preset": "medium" if request.param else "ultrafast"}

    pictures = moving(SECONDS * RATE)
    return write_clip(tmp_path / "a.ts", pictures, set_up=b_frames, kind="mpegts", gop=12)


@pytest.fixture
def live(clip):
    server = LiveServer(clip)
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


@pytest.fixture
def slow(monkeypatch):
    """While it is set, a frame takes twice the time between two. No stream here is so large.

    `wasted` are frames that are decoded though only key frames are asked for.
    """
    is_slow = threading.Event()
    is_slow.set()
    is_slow.wasted = 0
    decode = VideoDecoder._decode

    def slowly(decoder, packet, number):
        skips = decoder._context.skip_frame == "NONKEY" and not packet.is_keyframe
        is_slow.wasted += decoder._load.only_keys and not packet.is_keyframe and not skips
        if is_slow.is_set() and not skips:
            time.sleep(2 / RATE)
        return decode(decoder, packet, number)

    monkeypatch.setattr(VideoDecoder, "_decode", slowly)
    monkeypatch.setattr(decoding_load, "WINDOW", 0.5)
    monkeypatch.setattr(decoding_load, "FIRST_WAIT", 3.0)
    return is_slow


def skip_and_catch_up(camera, slow):
    """Reads a camera until key frames alone came, and then a second of all frames."""
    load = DecodingLoad("hall")
    alone, after = [], 0
    for frame in read_camera(camera, "tcp", 5.0, load):
        if load.only_keys:
            alone.append(frame.frame.key_frame)
            if len(alone) == 5:
                slow.clear()
        elif not slow.is_set():
            after += 1
            if after == RATE:
                break
    assert alone[-3:] == [True] * 3
    assert after == RATE
    assert load.skipped > RATE
    assert slow.wasted == 0


def test_only_key_frames_are_decoded_until_decoding_keeps_up(live, slow, caplog):
    (camera,) = parse_cameras([f"hall={live}"], False)
    caplog.set_level("INFO")
    skip_and_catch_up(camera, slow)
    lines = [record.getMessage() for record in caplog.records if "decode" in record.getMessage()]
    assert lines[-2:] == [
        "hall: decoding is too slow; only key frames are decoded",
        "hall: all frames are decoded again",
    ]


def test_a_key_frame_comes_out_before_the_next_packet_goes_in(clip, monkeypatch):
    load, decoded = DecodingLoad("hall"), []
    load.only_keys = True
    monkeypatch.setattr(load, "add_packet", lambda *_: None)
    with av.open(str(clip)) as container:
        stream = container.streams.video[0]
        for frame, intact in LiveDecoder(container, stream, 5.0, load):
            assert (frame.pict_type, intact) == (PictureType.I, True)
            assert stream.codec_context.skip_frame == "NONKEY", "the others cost time too"
            decoded.append(load.skipped)
    assert decoded == [11 * number for number in range(SECONDS * RATE // 12)]


def packets(load, start, seconds, waited=0.0, speed=0.5, stream=0.0):
    """Ten packets a second, that play `speed` times as fast as they come."""
    for tick in range(int(seconds * 10) + 1):
        load.add_packet(start + tick / 10, waited, stream + speed * tick / 10)


@pytest.mark.parametrize(
    ("case", "behind"),
    [
        ({}, True),
        ({"waited": 0.05}, False),  # half of the time nothing is left to decode
        ({"speed": 1.5}, False),  # a segment that came at once
        ({"speed": -1}, False),  # a clock that runs backwards
    ],
)
def test_who_never_waits_and_plays_slower_than_time_is_behind(case, behind):
    load = DecodingLoad("hall")
    packets(load, 100, WINDOW, **case)
    assert load.only_keys is behind


def test_a_new_connection_has_another_clock():
    load = DecodingLoad("hall")
    packets(load, 100, WINDOW - 1)
    load.restart()
    packets(load, 110, WINDOW - 1)
    assert not load.only_keys


def test_all_frames_are_tried_again_after_growing_waits():
    load, now, tries = DecodingLoad("hall"), 0.0, []
    while len(tries) < 4:
        before = load.only_keys
        packets(load, now, WINDOW, waited=0.05 if load.only_keys else 0.0, stream=now / 2)
        now += WINDOW
        if before and not load.only_keys:
            tries.append(now)
    gaps = [round((later - one) / FIRST_WAIT) for one, later in pairwise(tries)]
    assert gaps == [2, 4, 8]
