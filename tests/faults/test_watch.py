"""`llava-dvc watch` with a real RTSP server that is killed, stopped and started again."""

import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

import pytest

from llava_dvc.serving.watch.camera.address import parse_cameras
from tests.serving.video.clips import moving, write_clip
from tests.serving.watch.cameras import MjpegCamera
from tests.serving.watch.test_decoding_load import skip_and_catch_up, slow  # noqa: F401 a fixture

SERVER = Path(__file__).with_name("rtsp_server.py")
PACKAGES = (
    "gir1.2-gst-rtsp-server-1.0 python3-gi gstreamer1.0-plugins-good gstreamer1.0-plugins-bad"
)
SYSTEM_PYTHON = "/usr/bin/python3"
EVERY = 0.5


class RtspServer:
    """GStreamer's RTSP server in a process of its own."""

    def __init__(self, port, clips):
        command = [SYSTEM_PYTHON, SERVER, str(port), *clips]
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        assert self.process.stdout.readline() == "ready\n"

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


class Watch:
    """The command. `rows(camera)` are its readings up to now."""

    def __init__(self, folder, adapter, *arguments):
        self.folder, self.log = folder / "rows", folder / "log.txt"
        command = [Path(sys.executable).with_name("llava-dvc"), "watch", *arguments]
        command += [
            "--adapter",
            adapter,
            "--every",
            str(EVERY),
            "--out",
            self.folder,
            "--port",
            "0",
        ]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, stderr=log, stdout=log)

    def rows(self, camera):
        files = sorted(self.folder.glob("*.jsonl"))
        lines = (line for file in files for line in file.read_text().splitlines())
        return [row for row in map(json.loads, lines) if row["camera"] == camera]

    def wait_for_row(self, camera, seconds):
        """Returns after how many seconds the camera has a new row."""
        start, known = time.monotonic(), len(self.rows(camera))
        while len(self.rows(camera)) == known:
            assert time.monotonic() - start < seconds, self.log.read_text()
            time.sleep(0.1)
        return time.monotonic() - start

    def wait_for_line(self, text, seconds):
        start = time.monotonic()
        while text not in self.log.read_text():
            assert time.monotonic() - start < seconds, self.log.read_text()
            time.sleep(0.1)


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as one:
        return one.getsockname()[1]


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Two minutes in H.264 and in H.265."""
    if subprocess.run(
        [SYSTEM_PYTHON, "-c", "import gi; gi.require_version('GstRtspServer', '1.0')"],
        capture_output=True, check=False,
    ).returncode:  # fmt: skip
        assert not os.environ.get("CI"), f"CI needs {PACKAGES}"
        pytest.skip(f"needs {PACKAGES}")
    folder = tmp_path_factory.mktemp("clips")

    def quiet(stream):
        stream.options = {"x265-params": "log-level=none:keyint=25:bframes=0"}

    return [
        write_clip(folder / "a.h264.mp4", moving(3000)),
        write_clip(folder / "b.h265.mp4", moving(3000), "libx265", quiet),
    ]


def test_the_continuous_integration_installs_the_server():
    text = (Path(__file__).parents[2] / ".ci" / "run").read_text()
    assert set(PACKAGES.split()) <= set(text.split())


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_a_server_that_is_killed_or_hangs_is_found_again(
    tmp_path, adapter_folder, clips, transport
):
    port, still = free_port(), MjpegCamera()
    server = RtspServer(port, clips)
    login = f"rtsp://admin:geheim@127.0.0.1:{port}"
    watch = Watch(
        tmp_path, adapter_folder, f"a={login}/0", f"b={login}/1", f"still={still.url}",
        "--transport", transport,
    )  # fmt: skip
    try:
        for camera in ("a", "b", "still"):
            watch.wait_for_row(camera, 60)
        server.kill()
        watch.wait_for_line("a: Connection refused", 25)
        server = RtspServer(port, clips)
        for camera in ("a", "b"):
            assert watch.wait_for_row(camera, 40) < 35
        os.kill(server.process.pid, signal.SIGSTOP)
        watch.wait_for_line("a: no picture for 10 s", 14)
        os.kill(server.process.pid, signal.SIGCONT)
        for camera in ("a", "b"):
            watch.wait_for_row(camera, 40)
    finally:
        watch.process.send_signal(signal.SIGTERM)
        watch.process.wait(30)
        server.kill()
        still.stop()
    times = [datetime.fromisoformat(row["time"]) for row in watch.rows("still")]
    gaps = [(b - a).total_seconds() for a, b in itertools.pairwise(times)]
    assert max(gaps) < 4 * EVERY, "a bad camera delays a good one"
    for camera in ("a", "b"):
        assert watch.rows(camera)
    shown = watch.log.read_text() + "".join(map(str, watch.rows("a")))
    assert "geheim" not in shown
    assert "Traceback" not in shown


@pytest.mark.parametrize("clip", [0, 1], ids=["h264", "h265"])
def test_key_frames_of_a_stream_that_is_too_much_to_decode(clips, slow, clip):  # noqa: F811
    """The server sends on, also to a client that reads too slowly."""
    server = RtspServer(port := free_port(), clips)
    try:
        (camera,) = parse_cameras([f"hall=rtsp://127.0.0.1:{port}/{clip}"], False)
        skip_and_catch_up(camera, slow)
    finally:
        server.kill()
