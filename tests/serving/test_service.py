"""`llava-dvc serve` over real sockets, its page in a real browser."""

import base64
import http.client
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import uvicorn
from PIL import Image

from llava_dvc.errors import UserError
from llava_dvc.serving import request_batcher
from llava_dvc.serving import service as service_module
from llava_dvc.serving.counter import Count, Counter
from llava_dvc.serving.request_batcher import Batcher, Busy
from tests.conftest import ROOT, frame

JPEG = {"Content-Type": "image/jpeg"}
FORM = {"Content-Type": "multipart/form-data; boundary=edge"}
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
    "--window-size=1200,900",
]


def encoded(image: Image.Image, kind: str = "JPEG") -> bytes:
    file = io.BytesIO()
    image.save(file, kind, quality=95)
    return file.getvalue()


def form(body: bytes) -> bytes:
    head = b'--edge\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    return head + body + b"\r\n--edge--\r\n"


class Service:
    """A running server, and the ways to ask it."""

    def __init__(self, adapter: Path) -> None:
        command = [Path(sys.executable).with_name("llava-dvc"), "serve", "--port", "0"]
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


@pytest.fixture(scope="module")
def service(adapter_folder):
    running = Service(adapter_folder)
    yield running
    running.stop()


def test_a_frame_is_counted_as_in_python(service, adapter_folder):
    body = encoded(frame(5))
    (found,) = Counter.from_pretrained(adapter_folder).count([Image.open(io.BytesIO(body))])
    status, answer = service.count(body)
    assert status == 200
    assert {name: answer[name] for name in ("count", "low", "high")} == {
        name: getattr(found, name) for name in ("count", "low", "high")
    }
    np.testing.assert_allclose(answer["distribution"], found.probabilities, atol=2e-6)


def test_a_form_is_counted_as_a_body(service):
    body = encoded(frame(5))
    assert service.count(form(body), FORM) == service.count(body)


@pytest.mark.parametrize(
    ("body", "headers", "status", "says"),
    [
        (b"", JPEG, 400, "^the image is empty$"),
        (b"garbage", JPEG, 400, "^the image is no picture"),
        (encoded(frame(1))[:-500], JPEG, 400, "truncated"),
        (
            encoded(Image.new("1", (10_000, 5_000)), "PNG"),
            JPEG,
            413,
            "50,000,000 pixels; send at most 25",
        ),
        (b"x" * 20_000_001, JPEG, 413, r"over 20,000,000 bytes"),
        (b"{}", {"Content-Type": "application/json"}, 415, "the body is application/json; send"),
        (b"xx", {"Content-Type": "multipart/form-data"}, 400, "boundary"),
        (
            b'--edge\r\nContent-Disposition: form-data; name="image"\r\n\r\nx\r\n--edge--\r\n',
            FORM,
            400,
            "send the image as `file`",
        ),
    ],
    ids=["empty", "garbage", "truncated", "pixels", "bytes", "type", "form", "field"],
)
def test_what_cannot_be_counted_is_a_clear_4xx(service, body, headers, status, says):
    got, answer = service.count(body, headers)
    assert got == status
    assert re.search(says, answer["detail"])


def test_a_broken_upload_is_no_fault_of_the_server(service):
    with socket.create_connection(("127.0.0.1", service.port)) as connection:
        connection.sendall(b"POST /count HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\nhalf")
    assert service.count(encoded(frame(2)))[0] == 200


def test_health_metrics_and_description(service):
    service.count(encoded(frame(1)))
    service.count(b"garbage")
    status, health = service.ask("GET", "/health")
    assert (status, json.loads(health)["status"]) == (200, "ok")
    metrics = service.ask("GET", "/metrics")[1].decode()
    for status in (200, 400):
        assert re.search(rf'llava_dvc_requests_total{{status="{status}"}} [1-9]', metrics)
    for name in ("llava_dvc_request_seconds_bucket", "llava_dvc_batch_frames_count",
                 "llava_dvc_waiting_frames 0.0", "process_resident_memory_bytes"):  # fmt: skip
        assert name in metrics
    api = json.loads(service.ask("GET", "/openapi.json")[1])
    responses = api["paths"]["/count"]["post"]["responses"]
    assert set(responses) >= {"200", "400", "408", "413", "415", "503"}


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_pages_load_nothing_from_elsewhere(service, path):
    status, page = service.ask("GET", path)
    assert status == 200
    assert b"<title>" in page
    assert re.findall(rb"https?://(?!www\.w3\.org/2000/svg)", page) == []


def test_a_taken_port_is_an_error_before_the_model_is_loaded(service):
    with pytest.raises(UserError, match=rf"127\.0\.0\.1:{service.port}: cannot listen there"):
        service_module.serve("no adapter", "127.0.0.1", service.port)


def test_no_request_is_lost_at_sigterm(adapter_folder):
    running = Service(adapter_folder)
    bodies = [encoded(frame(seed)) for seed in range(8)]

    def client(number: int) -> list[int | str]:
        """Sends frames until it is refused; what it got for each that it could send."""
        found: list[int | str] = []
        while True:
            connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=60)
            try:
                connection.connect()
            except ConnectionRefusedError:
                return found
            try:
                connection.request("POST", "/count", bodies[number], JPEG)
                found.append(connection.getresponse().status)
            except OSError as error:
                found.append(type(error).__name__)
            finally:
                connection.close()
            if len(found) == 5 and number == 0:
                running.process.send_signal(signal.SIGTERM)

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(client, range(8)))
    assert running.process.wait(60) == -signal.SIGTERM
    assert len(found[0]) >= 5
    assert {status for one in found for status in one} == {200}


# --- batches ------------------------------------------------------------------------------------


class Slow:
    """A counter that answers when it is let; what it was asked stands in `batches`."""

    def __init__(self) -> None:
        self.let = threading.Event()
        self.batches: list[int] = []

    def __call__(self, images) -> list[Count]:
        self.batches.append(len(images))
        assert self.let.wait(30)
        if any(image.size == (1, 1) for image in images):
            raise RuntimeError("out of memory")
        return [Count(image.width, 0, 0, 0.0, (1.0,), "") for image in images]


@pytest.fixture
def slow():
    return Slow()


@pytest.fixture
def batcher(slow):
    running = Batcher(slow, 4)
    yield running
    slow.let.set()
    running.close()


def wide(width: int) -> Image.Image:
    return Image.new("RGB", (width, 1))


def wait_for_first(slow) -> None:
    while not slow.batches:
        threading.Event().wait(0.001)


def test_what_waits_is_counted_together(batcher, slow):
    first = batcher.count(wide(100))
    wait_for_first(slow)
    rest = [batcher.count(wide(width)) for width in range(2, 9)]
    slow.let.set()
    assert first.result(30).count == 100
    assert [one.result(30).count for one in rest] == list(range(2, 9))
    assert slow.batches == [1, 4, 3]


def test_who_no_longer_waits_is_left_out(batcher, slow):
    batcher.count(wide(2))
    wait_for_first(slow)
    gone, other = batcher.count(wide(3)), batcher.count(wide(4))
    assert gone.cancel()
    slow.let.set()
    assert other.result(30).count == 4
    assert slow.batches == [1, 1]


def test_a_fault_is_told_to_its_batch_alone(batcher, slow):
    slow.let.set()
    with pytest.raises(RuntimeError, match="out of memory"):
        batcher.count(wide(1)).result(30)
    assert batcher.count(wide(5)).result(30).count == 5


def test_closing_answers_what_waits(slow):
    batcher = Batcher(slow, 4)
    answers = [batcher.count(wide(width)) for width in range(2, 12)]
    slow.let.set()
    batcher.close()
    assert [one.result(0).count for one in answers] == list(range(2, 12))


def test_room_is_bounded_and_given_back(batcher):
    with batcher.place(request_batcher.MOST_PIXELS - 10):
        with batcher.place(10):
            assert batcher.waiting == 2
            with pytest.raises(Busy), batcher.place(1):
                pass
        with batcher.place(5):
            pass
    assert batcher.waiting == 0


@pytest.fixture
def crowded(adapter_folder, slow, monkeypatch):
    """A service in this process whose model takes its time, with room for three frames."""
    monkeypatch.setattr(request_batcher, "MOST_FRAMES", 3)
    counter = Counter.from_pretrained(adapter_folder)
    counter.count = slow
    listening = service_module._bind("127.0.0.1", 0)
    server = service_module.Server(
        uvicorn.Config(service_module.build_app(counter), log_level="warning")
    )
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    while not server.started:
        threading.Event().wait(0.01)
    server.port = listening.getsockname()[1]
    yield server
    slow.let.set()
    server.should_exit = True
    thread.join(30)


def post(server, body=None, headers=JPEG) -> tuple[int, str | None]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.request("POST", "/count", body or encoded(frame(1)), headers)
    answer = connection.getresponse()
    return answer.status, answer.getheader("Retry-After")


def test_who_finds_no_room_is_told_to_come_back(crowded, slow):
    with ThreadPoolExecutor(3) as pool:
        waiting: list[Future] = [pool.submit(post, crowded) for _ in range(3)]
        metrics = b""
        while b"waiting_frames 3.0" not in metrics:
            connection = http.client.HTTPConnection("127.0.0.1", crowded.port)
            connection.request("GET", "/metrics")
            metrics = connection.getresponse().read()
        assert post(crowded) == (503, "5")
        slow.let.set()
        assert [one.result(30) for one in waiting] == [(200, None)] * 3
    assert post(crowded)[0] == 200


def test_who_waits_too_long_is_told_so(crowded, slow, monkeypatch):
    monkeypatch.setattr(service_module, "ANSWER_SECONDS", 0.05)
    assert post(crowded) == (503, "5")


def test_no_frame_touches_the_disk(crowded, slow, monkeypatch):
    def rollover(_: object) -> None:
        raise AssertionError("a form's file went to the disk")

    monkeypatch.setattr(tempfile.SpooledTemporaryFile, "rollover", rollover)
    slow.let.set()
    large = encoded(Image.new("RGB", (1200, 1000)), "BMP")  # 3.6 MB
    assert post(crowded, form(large), FORM) == (200, None)


def test_a_slow_upload_is_ended(crowded, slow, monkeypatch):
    monkeypatch.setattr(service_module, "UPLOAD_SECONDS", 0.05)
    with socket.create_connection(("127.0.0.1", crowded.port)) as connection:
        connection.sendall(b"POST /count HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\nhalf")
        assert connection.recv(4096).startswith(b"HTTP/1.1 408 ")


def until_refused(server) -> None:
    while True:
        try:
            socket.create_connection(("127.0.0.1", server.port)).close()
        except ConnectionRefusedError:
            return


def test_what_was_taken_is_answered_however_long_it_takes(crowded, slow, monkeypatch):
    monkeypatch.setattr(service_module, "LAST_CALL_SECONDS", 0.01)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(post, crowded)
        wait_for_first(slow)
        crowded.should_exit = True
        until_refused(crowded)
        threading.Event().wait(0.5)  # well after the last call
        slow.let.set()
        assert waiting.result(30) == (200, None)


def test_a_standing_connection_gets_a_last_answer(crowded, slow, monkeypatch):
    monkeypatch.setattr(service_module, "LAST_CALL_SECONDS", 20)
    slow.let.set()
    connection = http.client.HTTPConnection("127.0.0.1", crowded.port, timeout=60)
    connection.request("GET", "/health")
    assert connection.getresponse().read()
    crowded.should_exit = True
    until_refused(crowded)
    connection.request("POST", "/count", encoded(frame(1)), JPEG)
    answer = connection.getresponse()
    assert (answer.status, answer.getheader("Connection")) == (200, "close")


# --- the page -----------------------------------------------------------------------------------


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


def wait_until(browser, script: str) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(browser, 30).until(lambda driver: driver.execute_script(f"return {script}"))


def text(browser, name: str) -> str:
    return browser.execute_script(f"return document.getElementById('{name}').textContent")


def drop(browser, path: Path, kind: str) -> None:
    """A real drop event: Chromium makes the file, the page gets it as from a desktop."""
    browser.execute_script(
        "const bytes = Uint8Array.from(atob(arguments[0]), c => c.charCodeAt(0));"
        "const data = new DataTransfer();"
        "data.items.add(new File([bytes], 'frame', {type: arguments[1]}));"
        "document.getElementById('drop').dispatchEvent("
        "new DragEvent('drop', {dataTransfer: data, bubbles: true, cancelable: true}));",
        base64.b64encode(path.read_bytes()).decode(),
        kind,
    )


def test_the_page_shows_count_and_distribution(service, browser, tmp_path):
    path = tmp_path / "frame.jpg"
    path.write_bytes(encoded(frame(5, (640, 480))))
    answer = service.count(path.read_bytes())[1]
    browser.get(f"http://127.0.0.1:{service.port}/")
    browser.find_element("id", "file").send_keys(str(path))
    wait_until(browser, "!document.getElementById('details').hidden")
    assert text(browser, "count") == str(answer["count"])
    assert f"{answer['low']} to {answer['high']} with 80 %" in text(browser, "range")
    bars = browser.execute_script(
        "return [...document.querySelectorAll('#chart rect')].map("
        "bar => [parseInt(bar.textContent), +bar.getAttribute('height'), bar.classList.length])"
    )
    tallest = max(bars, key=lambda bar: bar[1])[0]
    assert tallest == answer["most_likely"][0]["count"]
    inside = [count for count, _, marked in bars if marked]
    assert (inside[0], inside[-1]) == (answer["low"], answer["high"])
    assert text(browser, "likely").startswith(str(tallest))
    assert browser.execute_script("return document.getElementById('frame').naturalWidth") == 640
    if folder := os.environ.get("SCREENSHOTS"):
        browser.save_screenshot(f"{folder}/page.png")
    assert [line for line in browser.get_log("browser") if line["level"] == "SEVERE"] == []


def test_the_page_says_what_is_wrong_with_a_file_and_goes_on(service, browser, tmp_path):
    bad, good = tmp_path / "bad.jpg", tmp_path / "good.png"
    bad.write_bytes(b"not a picture")
    frame(2).save(good)
    browser.get(f"http://127.0.0.1:{service.port}/")
    drop(browser, bad, "image/jpeg")
    wait_until(browser, "document.getElementById('error').textContent !== ''")
    assert "is no picture" in text(browser, "error")
    assert text(browser, "count") == "–"
    if folder := os.environ.get("SCREENSHOTS"):
        browser.save_screenshot(f"{folder}/error.png")
    drop(browser, good, "image/png")
    wait_until(browser, "!document.getElementById('details').hidden")
    assert text(browser, "count") == str(service.count(good.read_bytes())[1]["count"])
    assert text(browser, "error") == ""


def test_the_interface_is_described_on_a_page(service, browser):
    browser.get(f"http://127.0.0.1:{service.port}/docs")
    wait_until(browser, "document.querySelectorAll('#operations section').length >= 2")
    page = browser.execute_script("return document.body.innerText")
    for part in ("POST/count", "GET/health", "multipart/form-data", "distribution", "413"):
        assert part in page.replace(" ", "").replace("\n", "")
    if folder := os.environ.get("SCREENSHOTS"):
        browser.save_screenshot(f"{folder}/docs.png")


def test_ci_installs_the_browser():
    assert "chromium-driver" in (ROOT / ".ci" / "run").read_text()
