"""Image files, a video, and running services."""

import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
import pytest
from PIL import Image

from llava_dvc import cli
from llava_dvc.files import write_json
from llava_dvc.recipe import (
    MANIFEST,
    Recipe,
    Zones,
    adapter_sha256,
    backbone_digest,
    manifest_entry,
)
from llava_dvc.serving import request_batcher
from llava_dvc.serving.counter import Count, Counter
from llava_dvc.serving.page.served_model import EVALUATION
from llava_dvc.serving.server import GracefulServer, bind_socket, server_config
from llava_dvc.serving.service import build_app
from llava_dvc.training.scenes import describe_scenes
from tests.conftest import frame
from tests.serving.requests import JPEG

SIZE = 64, 48
CHROMIUM = shutil.which("chromium"), shutil.which("chromedriver")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-fake-device-for-media-stream",
    "--window-size=1200,900",
]
PHONE = {"width": 390, "height": 664, "deviceScaleFactor": 1, "mobile": True}
"""What the browser of a phone of 390 x 844 leaves to the page."""
SIZES = {f"camera {width}": (width, width * 3 // 4) for width in (64, 160, 640)}
"""Smaller when it is shrunk, noise has weaker edges. So each size is a camera of its own."""
MEASURED = {"mae": 2.0167, "mae_ci_low": 1.4167, "mae_ci_high": 2.634, "frames": 60}
"""What the made-up evaluation of the service's adapter says."""


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "cam"
    folder.mkdir()
    for number in (1, 2, 10):
        frame(number).save(folder / f"{number}.png")
    (folder / "notes.txt").write_text("no image")
    return folder


@pytest.fixture(scope="session")
def zoned_folder(adapter_folder, tmp_path_factory) -> Path:
    """The adapter with two zones, of which `door` has an outline for the camera `hall` only."""
    folder = tmp_path_factory.mktemp("zoned")
    for file in adapter_folder.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    left = ((0, 0), (30, 0), (30, 48), (0, 48))
    zones = Zones(name="tills", polygons={"tills": {"*": left}, "door": {"hall": left[:3]}})
    Recipe.read(folder).model_copy(update={"zones": zones}).write(folder)
    return folder


@pytest.fixture
def run_predict(monkeypatch, tmp_path, capsys):
    """Runs `llava-dvc predict` in an empty folder; returns standard output and how it stopped."""
    monkeypatch.chdir(tmp_path)

    def call(adapter: Path, *arguments: str) -> tuple[str, str | None]:
        command = ["llava-dvc", "predict", *arguments, "--adapter", str(adapter)]
        monkeypatch.setattr(sys, "argv", command)
        try:
            cli.main()
        except SystemExit as stop:
            return capsys.readouterr().out, str(stop)
        return capsys.readouterr().out, None

    return call


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


class ServiceProcess:
    """`llava-dvc serve` in a process of its own."""

    def __init__(
        self, adapter: Path, prefix: tuple[str, ...] = (), options: tuple[str | Path, ...] = ()
    ) -> None:
        """`prefix` is a command that starts the service."""
        command = [*prefix, Path(sys.executable).with_name("llava-dvc"), "serve", "--port", "0"]
        command += options
        self.process = subprocess.Popen(
            [*command, "--adapter", adapter], stdout=subprocess.PIPE, text=True
        )
        self.port = int(self.process.stdout.readline().rpartition(":")[2])

    def ask(self, method, path, body=None, headers=None) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def count(self, body, headers=JPEG) -> tuple[int, dict]:
        status, text = self.ask("POST", "/count", body, headers)
        return status, json.loads(text)

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


@pytest.fixture(scope="session")
def published_adapter(adapter_folder, cfg, tmp_path_factory):
    """The adapter with an evaluation and the manifest that lists it. It knows frames of noise."""
    folder = tmp_path_factory.mktemp("shared") / "published"
    shutil.copytree(adapter_folder, folder)
    cameras = [name for name in SIZES for _ in range(10)]
    noise = [frame(seed, SIZES[name]) for seed, name in enumerate(cameras)]
    scenes = describe_scenes(cameras, noise)
    Recipe.read(folder).model_copy(update={"scenes": scenes}).write(folder)
    write_json(folder / EVALUATION, MEASURED | {"rmse": 3.0})
    names = [path.name for path in folder.iterdir() if path.is_file()]
    manifest = {
        "adapter_sha256": adapter_sha256(folder),
        "inputs_md5": {"backbone": backbone_digest(cfg.backbone)},
        "evaluate": {},
        "files": [manifest_entry(folder, name) for name in [*names, EVALUATION]],
    }
    write_json(folder / MANIFEST, manifest)
    return folder


@pytest.fixture(scope="session")
def service(published_adapter, tmp_path_factory):
    """A service that keeps corrections in the folder `corrections`."""
    corrections = tmp_path_factory.mktemp("corrections") / "kept"
    running = ServiceProcess(published_adapter, options=("--keep-corrections", corrections))
    running.corrections = corrections
    yield running
    running.process.send_signal(signal.SIGINT)
    assert running.process.wait(60) == 0  # Ctrl-C is a usual end, without a traceback


class BlockedCounter:
    """Counts nothing until `release` is set; `batches` has the size of each batch that it got."""

    def __init__(self) -> None:
        self.release = threading.Event()
        self.batches: list[int] = []
        self.fails = 1, 1
        """The size of an image that cannot be counted."""

    def wait_for_batch(self) -> None:
        while not self.batches:
            threading.Event().wait(0.001)

    def __call__(self, images) -> list[Count]:
        self.batches.append(len(images))
        assert self.release.wait(30)
        if any(image.size == self.fails for image in images):
            raise RuntimeError("out of memory")
        return [Count(image.width, 0, 0, 0.0, (1.0,), "") for image in images]


@pytest.fixture
def blocked():
    return BlockedCounter()


@contextmanager
def serving(counter: Counter) -> Iterator[GracefulServer]:
    """A server in this process, with its `port`."""
    listener = bind_socket("127.0.0.1", 0)
    server = GracefulServer(server_config(build_app(counter)))
    server.thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    server.thread.start()
    while not server.started:
        threading.Event().wait(0.01)
    server.port = listener.getsockname()[1]
    try:
        yield server
    finally:
        server.should_exit = True
        server.thread.join(30)


@pytest.fixture
def small_service(adapter_folder, blocked, monkeypatch):
    """A server in this process that counts with `blocked` and has room for three frames."""
    monkeypatch.setattr(request_batcher, "MAX_QUEUED_FRAMES", 3)
    counter = Counter.from_pretrained(adapter_folder)
    counter.encode, counter.count_encoded = (lambda image, zone: image), blocked
    with serving(counter) as server:
        yield server
        blocked.release.set()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if None in CHROMIUM:
        assert not os.environ.get("CI"), "CI needs Debian's chromium and chromium-driver"
        pytest.skip("needs Debian's chromium and chromium-driver")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM[0]
    profile = tmp_path_factory.mktemp("chromium")
    for flag in [*FLAGS, f"--user-data-dir={profile}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(CHROMIUM[1]))
    driver.implicitly_wait(20)
    yield driver
    driver.quit()


@pytest.fixture
def korean_phone(browser):
    agent = browser.execute_script("return navigator.userAgent")
    language = {"userAgent": agent, "acceptLanguage": "ko-KR,en"}
    browser.execute_cdp_cmd("Network.setUserAgentOverride", language)
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", PHONE)
    yield browser
    browser.execute_cdp_cmd("Network.setUserAgentOverride", language | {"acceptLanguage": "en-US"})
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def wait_until(browser, script: str) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(browser, 30, poll_frequency=0.05).until(
        lambda driver: driver.execute_script(f"return {script}")
    )
