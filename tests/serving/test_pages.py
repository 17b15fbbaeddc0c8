"""The service's pages in a real browser."""

import base64
import os
import re
from pathlib import Path

import pytest

from tests.conftest import ROOT, frame
from tests.serving.conftest import wait_until
from tests.serving.requests import encoded


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_pages_load_nothing_from_other_hosts(service, path):
    status, page = service.ask("GET", path)
    assert status == 200
    assert b"<title>" in page
    assert re.findall(rb"https?://(?!www\.w3\.org/2000/svg)", page) == []


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


def test_the_page_shows_an_error_and_then_the_next_frame(service, browser, tmp_path):
    bad, good = tmp_path / "bad.jpg", tmp_path / "good.png"
    bad.write_bytes(b"no image")
    frame(2).save(good)
    browser.get(f"http://127.0.0.1:{service.port}/")
    drop(browser, bad, "image/jpeg")
    wait_until(browser, "document.getElementById('error').textContent !== ''")
    assert "is not in a known image format" in text(browser, "error")
    assert text(browser, "count") == "–"
    if folder := os.environ.get("SCREENSHOTS"):
        browser.save_screenshot(f"{folder}/error.png")
    drop(browser, good, "image/png")
    wait_until(browser, "!document.getElementById('details').hidden")
    assert text(browser, "count") == str(service.count(good.read_bytes())[1]["count"])
    assert text(browser, "error") == ""


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
