"""The page of `llava-dvc watch`, and what it is fed with."""

import errno
import http.client
import io
import json
import os
import re
import tempfile
import threading
from contextlib import contextmanager

import av
import pytest
from PIL import Image

from llava_dvc.data.images import ImageError
from llava_dvc.errors import UserError
from llava_dvc.serving import server as server_module
from llava_dvc.serving.guards import connection_limit
from llava_dvc.serving.guards.browser_guard import LOCAL_HOSTS
from llava_dvc.serving.page.web_files import WEB
from llava_dvc.serving.server import GracefulServer, bind_socket, server_config
from llava_dvc.serving.watch.camera.address import parse_cameras
from llava_dvc.serving.watch.camera.camera_reader import ENDED, read_failure
from llava_dvc.serving.watch.camera.history import MINUTES, MinuteMeans
from llava_dvc.serving.watch.camera.live_video import StreamStalled
from llava_dvc.serving.watch.camera_watch import CameraWatch
from llava_dvc.serving.watch.reading_log import ReadingLog
from llava_dvc.serving.watch.reading_sink import ReadingSink
from llava_dvc.serving.watch.watch_app import build_watch_app
from llava_dvc.serving.watch.watch_options import Pace
from tests.conftest import frame
from tests.serving.conftest import wait_until
from tests.serving.watch.cameras import MjpegCamera


@contextmanager
def watching(counter, sources, sink, show_frames=False):
    """The running command, in this process."""
    pace = Pace(every=0.2)
    cameras = parse_cameras(sources, False)
    watch = CameraWatch(counter, cameras, pace, sink, show_frames=show_frames)
    listener = bind_socket("127.0.0.1", 0)
    server = GracefulServer(server_config(build_watch_app(watch, LOCAL_HOSTS, (), show_frames)))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    server.port = listener.getsockname()[1]
    try:
        yield server
    finally:
        open_stream = ask(server, "/events")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(server_module, "GRACE_SECONDS", 0.05)
            patch.setattr(connection_limit, "LAST_SECONDS", 0.05)
            server.should_exit = True
            thread.join(30)
        assert not thread.is_alive(), "a page that is open holds up the end"
        open_stream.close()


@pytest.fixture(scope="module")
def server(counter):
    """Watches one camera that works and one that does not."""
    camera = MjpegCamera()
    sources = [f"hall={camera.url}", "gone=http://user:geheim@127.0.0.1:1/geheim"]
    with watching(counter, sources, ReadingSink(None, "jsonl", [], [])) as running:
        yield running
    camera.stop()


def ask(server, path, host=None):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.request("GET", path, headers={"Host": host} if host else {})
    return connection.getresponse()


def next_event(answer):
    line = answer.readline()
    assert answer.readline() == b"\n"
    return json.loads(line.removeprefix(b"data: "))


def test_events_have_count_interval_state_and_the_last_hour(server):
    answer = ask(server, "/events")
    assert answer.getheader("Content-Type").startswith("text/event-stream")
    while not (event := next_event(answer))["hall"]["zones"][0]["people"]:
        pass
    answer.close()
    (hall,), (gone,) = event["hall"]["zones"], event["gone"]["zones"]
    assert (event["hall"]["state"], hall["zone"]) == ("live", None)
    assert set(hall["people"]) == {"count", "low", "high"}
    assert len(hall["hour"]) == MINUTES
    assert hall["hour"][-1] is not None or hall["hour"][-2] is not None
    assert (event["gone"]["state"], gone["people"]) == ("waiting", None)
    assert event["gone"]["reason"] == "Connection refused"
    assert "geheim" not in json.dumps(event)


def test_only_own_hosts_are_answered_and_the_page_loads_nothing_from_elsewhere(server):
    assert ask(server, "/events", "evil.example").status == 400
    page = ask(server, "/").read()
    assert re.findall(rb"https?://(?!www\.w3\.org/2000/svg)", page) == []
    assert json.loads(ask(server, "/health").read()) == {"status": "ok"}
    assert b'llava_dvc_camera_up{camera="gone"} 0.0' in ask(server, "/metrics").read()


def test_the_page_shows_each_camera_and_follows_it(server, browser):
    browser.get(f"http://127.0.0.1:{server.port}/")
    count = "document.querySelector('#camera-hall .count')?.textContent"
    wait_until(browser, f"/^[0-9]+$/.test({count})")
    wait_until(browser, "document.querySelector('#camera-hall polyline') !== null")
    shown = browser.execute_script(
        "return document.querySelector('#camera-hall .range').textContent"
    )
    assert re.fullmatch(r"80 % interval: \d+ to \d+", shown)
    browser.execute_script(f"window.before = {count}")
    wait_until(browser, f"{count} !== window.before")
    text = browser.execute_script("return document.querySelector('#camera-gone').textContent")
    assert "waiting: Connection refused" in text
    assert "geheim" not in browser.page_source
    assert browser.get_log("browser") == []


SHOWN = "document.querySelector('#camera-hall .count')?.textContent"


def test_the_page_of_a_korean_browser_is_korean(server, korean_phone):
    korean_phone.get(f"http://127.0.0.1:{server.port}/")
    wait_until(korean_phone, f"/^[0-9]+$/.test({SHOWN})")
    shown = korean_phone.execute_script("return document.body.innerText")
    assert re.search(r"80 % 구간: \d+~\d+명", shown)
    assert "연결 끊김: 카메라가 연결을 거부했습니다" in shown
    assert "사진은 보여 주지도 저장하지도 않습니다." in shown
    words = set(re.findall(r"[A-Za-z]{2,}", shown))
    assert words == {"hall", "gone"}


def libav_error(code):
    try:
        av.error.err_check(-code)
    except av.FFmpegError as error:
        return error


LOSSES = {
    StreamStalled(): "10초 동안 영상이 오지 않았습니다",
    ImageError("empty", "is empty"): "카메라 화면을 쓸 수 없습니다(is empty)",
    libav_error(errno.EIO): "카메라에 연결되지 않거나 연결이 끊어졌습니다",
    libav_error(errno.ETIMEDOUT): "카메라가 제때 응답하지 않았습니다",
    libav_error(errno.ENODEV): "장치가 없습니다",
    **{
        libav_error(av.error.ErrorType[f"HTTP_{name}"].value): korean
        for name, korean in {
            "UNAUTHORIZED": "사용자 이름이나 비밀번호가 맞지 않습니다",
            "NOT_FOUND": "이 주소에는 영상이 없습니다",
            "OTHER_4XX": "카메라가 요청을 받아들이지 않았습니다",
            "SERVER_ERROR": "카메라 서버에 오류가 났습니다",
        }.items()
    },
    UserError("another reason"): "another reason",
}


def test_reasons_are_korean_and_a_rare_one_stays_english(server, korean_phone):
    korean_phone.get(f"http://127.0.0.1:{server.port}/")
    script = """
        const [reasons, done] = arguments;
        import('/web/reasons.js').then(({sayReason}) => done(reasons.map(sayReason)));
    """
    reasons = [read_failure(error, 10.0) for error in LOSSES]
    assert korean_phone.execute_async_script(script, reasons) == list(LOSSES.values())


def test_every_reason_of_a_loss_is_known_in_korean():
    """In the form in which the command, libav and the system say it."""
    source = (WEB / "reasons.js").read_text()
    codes = ("ECONNREFUSED", "ECONNRESET", "EPIPE", "ETIMEDOUT", "EHOSTUNREACH", "ENETUNREACH")
    codes += ("ENOENT", "ENODEV", "EBUSY", "EACCES")
    texts = [os.strerror(getattr(errno, code)) for code in codes]
    texts += [ENDED, read_failure(libav_error(errno.EIO), 1.0)]
    assert [text for text in texts if f'["{text}"' not in source] == []


@pytest.mark.parametrize("width", [390, 500])
def test_the_page_fits_a_narrow_window(server, korean_phone, width):
    size = {"width": width, "height": 664, "deviceScaleFactor": 1, "mobile": True}
    korean_phone.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    korean_phone.get(f"http://127.0.0.1:{server.port}/")
    wait_until(korean_phone, f"/^[0-9]+$/.test({SHOWN})")
    name = "document.querySelector('#camera-gone h2').textContent = 'long_name_'.repeat(20)"
    korean_phone.execute_script(name)
    assert korean_phone.execute_script("return document.documentElement.scrollWidth") <= width


def test_without_show_frames_no_picture_is_served(server):
    assert ask(server, "/frames/hall").status == 404
    assert "picture" not in next_event(ask(server, "/events"))["hall"]


def test_show_frames_shows_the_newest_picture_and_keeps_none(
    counter, browser, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    camera = MjpegCamera([frame(seed, (800, 600)) for seed in range(3)])
    sink = ReadingSink(ReadingLog(tmp_path / "out", "jsonl"), "jsonl", [], [])
    sources = [f"hall={camera.url}", "gone=http://127.0.0.1:1/"]
    with watching(counter, sources, sink, show_frames=True) as running:
        browser.get(f"http://127.0.0.1:{running.port}/")
        image = "document.querySelector('#camera-hall img')"
        wait_until(browser, f"{image}?.naturalWidth === 640")
        browser.execute_script(f"window.before = {image}.src")
        wait_until(browser, f"{image}.src !== window.before && {image}.naturalWidth === 640")
        assert browser.execute_script("return document.querySelector('#camera-gone img').hidden")
        assert "none is kept" in browser.execute_script("return document.body.innerText")
        answer = ask(running, "/frames/hall")
        assert answer.getheader("Cache-Control") == "no-store"
        assert answer.getheader("Cross-Origin-Resource-Policy") == "same-origin"
        assert Image.open(io.BytesIO(answer.read())).size == (640, 480)
        for other in ("gone", "nobody", "..%2Fhall"):
            assert ask(running, f"/frames/{other}").status == 404
        assert ask(running, "/frames/hall", "evil.example").status == 400
        camera.stop()
        wait_until(browser, f"{image}.hidden")
        assert ask(running, "/frames/hall").status == 404
    kept = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert {name.split("-")[0] for name in kept} == {"readings", ".watch.lock"}


def test_minutes_are_means_and_minutes_without_a_count_are_gaps():
    hour = MinuteMeans()
    for seconds, count in ((0, 9), (3600, 4), (3610, 8), (3725, 5)):
        hour.add(seconds, count)
    found = hour.means(3790)  # the minute of 3790 is the 63rd
    assert found[-4:] == [6.0, None, 5.0, None]
    assert found[:-4] == [None] * (MINUTES - 4)
