"""The page of `llava-dvc watch`, and what it is fed with."""

import http.client
import json
import re
import threading

import pytest

from llava_dvc.serving import server as server_module
from llava_dvc.serving.guards import connection_limit
from llava_dvc.serving.guards.browser_guard import LOCAL_HOSTS
from llava_dvc.serving.server import GracefulServer, bind_socket, server_config
from llava_dvc.serving.watch.camera.address import parse_cameras
from llava_dvc.serving.watch.camera.history import MINUTES, MinuteMeans
from llava_dvc.serving.watch.camera_watch import CameraWatch
from llava_dvc.serving.watch.reading_sink import ReadingSink
from llava_dvc.serving.watch.watch_app import build_watch_app
from llava_dvc.serving.watch.watch_options import Pace
from tests.serving.conftest import wait_until
from tests.serving.watch.cameras import MjpegCamera


@pytest.fixture(scope="module")
def server(counter):
    """Watches one camera that works and one that does not."""
    camera = MjpegCamera()
    sources = [f"hall={camera.url}", "gone=http://user:geheim@127.0.0.1:1/geheim"]
    sink = ReadingSink(None, "jsonl", [], [])
    watch = CameraWatch(counter, parse_cameras(sources, False), Pace(every=0.2), sink)
    listener = bind_socket("127.0.0.1", 0)
    server = GracefulServer(server_config(build_watch_app(watch, LOCAL_HOSTS, ())))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    server.port = listener.getsockname()[1]
    yield server
    open_stream = ask(server, "/events")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(server_module, "GRACE_SECONDS", 0.05)
        patch.setattr(connection_limit, "LAST_SECONDS", 0.05)
        server.should_exit = True
        thread.join(30)
    assert not thread.is_alive(), "a page that is open holds up the end"
    open_stream.close()
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


def test_minutes_are_means_and_minutes_without_a_count_are_gaps():
    hour = MinuteMeans()
    for seconds, count in ((0, 9), (3600, 4), (3610, 8), (3725, 5)):
        hour.add(seconds, count)
    found = hour.means(3790)  # the minute of 3790 is the 63rd
    assert found[-4:] == [6.0, None, 5.0, None]
    assert found[:-4] == [None] * (MINUTES - 4)
