"""The service's pages in a real browser."""

import base64
import http.client
import io
import os
import re
from pathlib import Path

import pytest
from PIL import Image

from llava_dvc.data.labels import read_labels
from llava_dvc.serving import request_batcher
from llava_dvc.serving import service as service_module
from llava_dvc.serving.page import web_files
from tests.conftest import ROOT, frame
from tests.serving.conftest import PHONE, ServiceProcess, wait_until
from tests.serving.requests import JPEG, encoded

CSP = "Content-Security-Policy"
WEB = web_files.WEB
EXAMPLE = WEB / "examples" / "people_12.jpg"
SENT = "performance.getEntriesByType('resource').filter(e => e.name.endsWith('/count')).length"
DONE = "!document.getElementById('details').hidden"
POLICY = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "connect-src": "'self'",
    "img-src": "'self' blob: data:",
    "media-src": "blob:",
    "base-uri": "'none'",
    "form-action": "'none'",
}


@pytest.mark.parametrize("path", ["/", "/docs", "/web/index.html", "/web/page.js"])
def test_pages_load_nothing_from_other_hosts(service, path):
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=60)
    connection.request("GET", path)
    answer = connection.getresponse()
    policy = [part.strip().split(" ", 1) for part in answer.getheader(CSP).split(";")]
    assert (answer.status, dict(policy)) == (200, POLICY)


def test_files_of_the_pages_name_no_other_host():
    for path in WEB.glob("*.*"):
        assert re.findall(r"https?://(?!www\.w3\.org/2000/svg)", path.read_text()) == [], path


def test_a_path_out_of_the_folder_is_not_found(service):
    for path in ("/web/../service.py", "/web/%2e%2e/service.py", "/web/", "/web/examples"):
        assert service.ask("GET", path)[0] == 404


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
    wait_until(browser, DONE)
    assert text(browser, "count") == str(answer["count"])
    noun = "person" if answer["count"] == 1 else "people"
    assert text(browser, "range") == f"{noun}, 80 % interval {answer['low']} to {answer['high']}"
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


def test_the_page_shows_the_zone(zoned_folder, browser, tmp_path):
    """Its outline is the left 30 of 64 pixels of the picture, however large that is shown."""
    path = tmp_path / "frame.png"
    frame(5).save(path)
    service = ServiceProcess(zoned_folder)
    try:
        browser.get(f"http://127.0.0.1:{service.port}/")
        browser.find_element("id", "file").send_keys(str(path))
        wait_until(browser, DONE)
        assert text(browser, "zone") == "Counted in the zone tills only"
        assert browser.find_element("id", "zone").is_displayed()
        wait_until(browser, "document.querySelector('#outline polygon').points.length")
        outline = browser.find_element("css selector", "#outline polygon").rect
        picture = browser.find_element("id", "frame").rect
        for side in ("x", "y", "height"):
            assert outline[side] == pytest.approx(picture[side], abs=2)
        assert outline["width"] == pytest.approx(picture["width"] * 30 / 64, abs=2)
        if folder := os.environ.get("SCREENSHOTS"):
            browser.save_screenshot(f"{folder}/zone.png")
    finally:
        service.stop()


def test_the_page_shows_an_error_and_then_the_next_frame(service, browser, tmp_path):
    bad, good = tmp_path / "bad.jpg", tmp_path / "good.png"
    bad.write_bytes(b"no image")
    frame(2).save(good)
    browser.get(f"http://127.0.0.1:{service.port}/")
    drop(browser, bad, "image/jpeg")
    wait_until(browser, "!document.getElementById('error').hidden")
    assert text(browser, "error").startswith("This file cannot be read as a picture. Save it as")
    assert "is not in a known image format" in text(browser, "error")
    assert text(browser, "count") == "–"
    if folder := os.environ.get("SCREENSHOTS"):
        browser.save_screenshot(f"{folder}/error.png")
    drop(browser, good, "image/png")
    wait_until(browser, DONE)
    assert text(browser, "count") == str(service.count(good.read_bytes())[1]["count"])
    assert text(browser, "error").strip() == ""


def test_the_page_says_which_frames_are_unlike_the_training_frames(service, browser, tmp_path):
    known, other = tmp_path / "known.png", tmp_path / "other.png"
    frame(77).save(known)
    Image.new("RGB", (64, 48), (90, 90, 90)).save(other)
    browser.get(f"http://127.0.0.1:{service.port}/")
    browser.find_element("id", "file").send_keys(f"{known}\n{other}")
    wait_until(
        browser, "[...document.querySelectorAll('#rows td:last-child')].every(e => e.textContent)"
    )
    flagged = [row[2].endswith("unlike the training frames") for row in rows(browser)]
    assert flagged == [False, True]
    hidden = "document.getElementById('unlike').hidden"
    assert browser.execute_script(f"return {hidden}")
    browser.find_elements("css selector", "#rows button")[1].click()
    wait_until(browser, f"!{hidden}")
    assert text(browser, "unlike").startswith("This frame is unlike those that the model was")


def rows(browser) -> list[list[str]]:
    """Name, count and interval of each row, as it is shown."""
    return browser.execute_script(
        "return [...document.querySelectorAll('#rows tr')].map("
        "row => [...row.children].slice(1).map(cell => cell.textContent))"
    )


def as_row(name: str, answer: dict) -> list[str]:
    return [name, str(answer["count"]), f"{answer['low']} to {answer['high']}"]


def test_several_frames_get_a_row_each(service, browser, tmp_path):
    paths = [tmp_path / f"{seed}.png" for seed in range(6)]
    for seed, path in enumerate(paths):
        frame(seed, (160, 120)).save(path)
    answers = [service.count(path.read_bytes())[1] for path in paths]
    paths[2].write_bytes(b"no image")
    browser.get(f"http://127.0.0.1:{service.port}/")
    browser.find_element("id", "file").send_keys("\n".join(map(str, paths)))
    wait_until(browser, "document.querySelectorAll('#rows canvas').length === 5")
    assert text(browser, "progress") == "5 of 6 frames counted"
    wanted = [as_row(path.name, answer) for path, answer in zip(paths, answers, strict=True)]
    wanted[2][1:] = [
        "",
        "This file cannot be read as a picture. Save it as JPEG or PNG and try again.",
    ]
    assert rows(browser) == wanted
    browser.execute_script("document.querySelectorAll('#rows button')[4].click()")
    assert text(browser, "count") == str(answers[4]["count"])
    browser.find_element("id", "file").send_keys(str(paths[0]))  # one frame has no table
    wait_until(browser, "document.getElementById('several').hidden && " + DONE)


def test_a_video_has_a_timeline_and_only_its_frames_are_sent(service, browser, clip):
    browser.get(f"http://127.0.0.1:{service.port}/")
    browser.find_element("id", "file").send_keys(str(clip))
    wait_until(browser, "document.getElementById('progress').textContent.startsWith('5 of 5')")
    found = rows(browser)
    assert [row[0] for row in found] == ["0:00", "0:01", "0:02", "0:03", "0:04"]
    intervals = [row[2].removesuffix(" unlike the training frames") for row in found]
    assert all(re.fullmatch(r"\d+ to \d+", interval) for interval in intervals)
    counts = [int(row[1]) for row in found]
    caption = f"clip.mp4: people over time, from {min(counts)} to {max(counts)}"
    assert text(browser, "timelines").startswith(caption)
    points = browser.execute_script(
        "return [...document.querySelectorAll('#timelines circle')].map(one => one.textContent)"
    )
    assert points == [
        f"{row[0]}: {row[1]} ({interval.replace(' to ', '–')})"
        for row, interval in zip(found, intervals, strict=True)
    ]
    assert browser.execute_script(f"return {SENT}") == 5


def test_a_video_that_the_browser_cannot_play_is_said(service, browser, tmp_path):
    path = tmp_path / "old.mp4"
    path.write_bytes(b"\0\0\0\x18ftypisom" + bytes(4000))
    browser.get(f"http://127.0.0.1:{service.port}/")
    browser.find_element("id", "file").send_keys(str(path))
    wait_until(browser, "document.getElementById('error').textContent.includes('Convert it to')")
    assert "llava-dvc predict" in rows(browser)[0][2]


def allow_camera(browser, service, setting: str) -> None:
    permission = {"name": "camera"}, setting, f"http://127.0.0.1:{service.port}"
    names = "permission", "setting", "origin"
    browser.execute_cdp_cmd("Browser.setPermission", dict(zip(names, permission, strict=True)))


def test_the_camera_counts_what_it_shows(service, browser):
    allow_camera(browser, service, "granted")
    browser.get(f"http://127.0.0.1:{service.port}/")
    browser.find_element("id", "camera").click()
    wait_until(browser, "document.getElementById('viewfinder').videoWidth > 0")
    browser.find_element("id", "shoot").click()
    wait_until(browser, DONE)
    assert re.fullmatch(r"\d+", text(browser, "count"))
    assert browser.execute_script("return document.getElementById('viewfinder').srcObject") is None


def test_a_camera_that_the_browser_refuses_is_said(service, browser):
    allow_camera(browser, service, "denied")
    browser.get(f"http://127.0.0.1:{service.port}/")
    browser.find_element("id", "camera").click()
    wait_until(browser, "document.getElementById('error').textContent.includes('Allow it in')")


def test_a_server_that_is_gone_is_said(service, browser):
    browser.get(f"http://127.0.0.1:{service.port}/")
    browser.execute_cdp_cmd("Network.enable", {})
    network = {"offline": True, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    browser.execute_cdp_cmd("Network.emulateNetworkConditions", network)
    try:
        drop(browser, EXAMPLE, "image/jpeg")
        wait_until(browser, "document.getElementById('error').textContent.includes('reached')")
    finally:
        browser.execute_cdp_cmd("Network.emulateNetworkConditions", network | {"offline": False})


def test_the_page_waits_for_a_busy_server_and_keeps_nothing_by_default(
    small_service, blocked, browser, monkeypatch
):
    monkeypatch.setattr(request_batcher, "MAX_QUEUED_FRAMES", 0)
    monkeypatch.setattr(service_module, "RETRY_SECONDS", 0.2)
    blocked.release.set()
    browser.get(f"http://127.0.0.1:{small_service.port}/")
    drop(browser, EXAMPLE, "image/jpeg")
    wait_until(browser, f"{SENT} > 1")
    assert text(browser, "error").strip() == ""
    monkeypatch.setattr(request_batcher, "MAX_QUEUED_FRAMES", 3)
    wait_until(browser, DONE)
    assert text(browser, "kept") == "Nothing is stored."
    assert not browser.find_element("id", "correct").is_displayed()
    assert "not known here how well it counts" in text(browser, "model")
    connection = http.client.HTTPConnection("127.0.0.1", small_service.port, timeout=30)
    connection.request("POST", "/corrections?count=3", EXAMPLE.read_bytes(), JPEG)
    assert connection.getresponse().status == 404


def test_the_page_says_how_well_the_model_counts(service, browser):
    browser.get(f"http://127.0.0.1:{service.port}/")
    wait_until(browser, "document.getElementById('model').textContent !== ''")
    said = text(browser, "model")
    assert "published" in said
    assert "On 60 frames that it was not trained on, it was off by 2.0 people on average" in said
    assert "95 % interval 1.4 to 2.6" in said


def test_an_example_is_counted_and_corrected(service, browser):
    browser.get(f"http://127.0.0.1:{service.port}/")
    browser.find_element("css selector", ".example").click()
    wait_until(browser, DONE)
    assert text(browser, "count") == str(service.count(EXAMPLE.read_bytes())[1]["count"])
    assert "Only a frame that you correct is stored." in browser.page_source
    before = {label.name: label.count for label in corrected(service)}
    browser.find_element("id", "truth").send_keys("12")
    browser.find_element("css selector", "#correct button").click()
    wait_until(browser, "document.getElementById('correction').textContent.startsWith('Thank you')")
    (added,) = {label for label in corrected(service) if label.name not in before}
    assert added.count == 12
    kept = service.corrections / "frames" / added.name
    assert kept.read_bytes() == EXAMPLE.read_bytes()


def corrected(service) -> list:
    table = service.corrections / "labels.csv"
    return read_labels(table) if table.exists() else []


def test_examples_are_drawn_frames_of_the_sample():
    for path in (WEB / "examples").iterdir():
        assert path.stat().st_size < 40_000
        with Image.open(io.BytesIO(path.read_bytes())) as image:
            assert (image.size, image.getexif()) == ((640, 480), {})


def test_a_korean_phone_shows_number_and_interval_without_scrolling(
    service, korean_phone, tmp_path
):
    tall = tmp_path / "tall.png"  # as a phone takes it
    frame(5, (480, 640)).save(tall)
    korean_phone.get(f"http://127.0.0.1:{service.port}/")
    korean_phone.find_element("id", "file").send_keys(str(tall))
    wait_until(korean_phone, DONE)
    answer = service.count(tall.read_bytes())[1]
    assert text(korean_phone, "range") == f"80 % 구간 {answer['low']}~{answer['high']}명"
    ends = korean_phone.execute_script(
        "return ['count', 'range'].map(id => document.getElementById(id).getBoundingClientRect())"
        ".map(box => [box.top, box.bottom, box.right])"
    )
    for top, bottom, right in ends:
        assert 0 <= top < bottom <= PHONE["height"]
        assert right <= PHONE["width"]
    wide = korean_phone.execute_script("return document.documentElement.scrollWidth")
    assert wide <= PHONE["width"]
    shown = korean_phone.execute_script("return document.body.innerText")
    assert set(re.findall(r"[A-Za-z]{2,}", shown)) <= {"HTTP", "API", "tiny", "llava", "published"}


def test_both_languages_say_everything(service, browser):
    browser.get(f"http://127.0.0.1:{service.port}/")
    words = browser.execute_async_script(
        "const done = arguments[0]; import('/web/words.js').then(module => done(module.WORDS))"
    )
    assert words["en"].keys() == words["ko"].keys()
    for name, english in words["en"].items():
        holes = [sorted(re.findall(r"\{\w+\}", one)) for one in (english, words["ko"][name])]
        assert holes[0] == holes[1], name
    source = "".join(path.read_text() for path in WEB.glob("*.*") if path.name != "words.js")
    unused = [name for name in words["en"] if not re.search(rf"[\"']{name}[\"']", source)]
    assert unused == []


def test_the_docs_page_describes_the_api(service, browser):
    browser.get(f"http://127.0.0.1:{service.port}/docs")
    wait_until(browser, "document.querySelectorAll('#operations section').length >= 2")
    page = browser.execute_script("return document.body.innerText")
    for part in ("POST/count", "GET/health", "multipart/form-data", "distribution", "413"):
        assert part in page.replace(" ", "").replace("\n", "")
    if folder := os.environ.get("SCREENSHOTS"):
        browser.save_screenshot(f"{folder}/docs.png")


def test_ci_installs_the_browser():
    assert "chromium-driver" in (ROOT / ".ci" / "run").read_text()
