"""`llava-dvc serve` over real sockets."""

import http.client
import io
import json
import re
import socket
import tempfile
import time
import zlib
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from llava_dvc.serving import request_batcher, upload
from llava_dvc.serving import service as service_module
from llava_dvc.serving.counter import Counter
from tests.conftest import frame
from tests.serving.conftest import serving
from tests.serving.guards.broken_images import many_scans, png, tiny_tiles
from tests.serving.requests import FORM, JPEG, encoded, form, post


def test_a_frame_is_counted_as_in_python(service, adapter_folder):
    body = encoded(frame(5))
    (found,) = Counter.from_pretrained(adapter_folder).count([Image.open(io.BytesIO(body))])
    status, answer = service.count(body)
    assert status == 200
    assert {name: answer[name] for name in ("count", "low", "high")} == {
        name: getattr(found, name) for name in ("count", "low", "high")
    }
    np.testing.assert_allclose(answer["distribution"], found.probabilities, atol=2e-6)


def test_a_frame_that_is_unlike_the_training_frames_is_flagged(service):
    """They are noise."""
    plain = Image.new("RGB", (64, 48), (90, 90, 90))
    assert service.count(encoded(frame(77)))[1]["unlike_training"] is False
    assert service.count(encoded(plain))[1]["unlike_training"] is True


def test_an_adapter_of_before_does_not_know_what_is_unlike(adapter_folder):
    counter = Counter.from_pretrained(adapter_folder)
    with serving(counter) as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        connection.request("POST", "/count", encoded(frame(1)), JPEG)
        assert json.loads(connection.getresponse().read())["unlike_training"] is None


def test_a_form_is_counted_as_a_body(service):
    body = encoded(frame(5))
    assert service.count(form(body), FORM) == service.count(body)


@pytest.mark.parametrize(
    "disposition",
    [
        "form-data; name=\"file\"; filename*=UTF-8''%EC%B9%B4.jpg",
        'form-data; name="file"',
        "form-data; name=file",
        'form-data; name="file"; filename=""',
        "form-data; filename*=UTF-8''a.jpg; Name=\"file\"; filename=a.jpg",
    ],
)
def test_the_file_of_a_form_needs_no_filename(service, disposition):
    body = encoded(frame(5, (1600, 1200)), "BMP")  # a text of a form is limited to 1 MB
    status, answer = service.count(form(body, disposition), FORM)
    assert (status, answer.get("detail")) == (200, None)


@pytest.mark.parametrize(
    ("body", "headers", "status", "says"),
    [
        (b"", JPEG, 400, "^the image is empty$"),
        (b"garbage", JPEG, 400, "^the image is not in a known image format"),
        (encoded(frame(1))[:-500], JPEG, 400, "truncated"),
        (
            encoded(Image.new("1", (10_000, 5_000)), "PNG"),
            JPEG,
            413,
            "50,000,000 pixels; send at most 25",
        ),
        (b"x" * 20_000_001, JPEG, 413, r"over 20,000,000 bytes"),
        (b"{}", {"Content-Type": "application/json"}, 415, "the body is application/json; send"),
        (
            b"{}",
            {"Content-Type": "a" * 60_000},
            415,
            r"^the body is a{60}\.\.\.; send an image \(Content-Type: image/jpeg\) or a form with "
            "the image as `file`$",
        ),
        (b"xx", {"Content-Type": "multipart/form-data"}, 400, "boundary"),
        (
            many_scans((64, 48), 200),
            JPEG,
            413,
            "^the image has more than 100 scans; save it as a baseline JPEG or a PNG$",
        ),
        (
            tiny_tiles(1000, 1_000_000),
            JPEG,
            400,
            "^the image takes too much time to decode; save it as a baseline JPEG or a PNG$",
        ),
        (
            b'--edge\r\nContent-Disposition: form-data; name="image"\r\n\r\nx\r\n--edge--\r\n',
            FORM,
            400,
            "send the image as `file`",
        ),
    ],
    ids=[
        "empty",
        "garbage",
        "truncated",
        "pixels",
        "bytes",
        "type",
        "long type",
        "form",
        "scans",
        "time",
        "field",
    ],
)
def test_a_bad_upload_is_a_4xx_with_the_reason(service, body, headers, status, says):
    got, answer = service.count(body, headers)
    assert got == status
    assert re.search(says, answer["detail"])


def test_the_service_survives_a_broken_upload(service):
    with socket.create_connection(("127.0.0.1", service.port)) as connection:
        connection.sendall(
            b"POST /count HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\nhalf"
        )
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
    asked = api["paths"]["/count"]["post"]
    assert [one["name"] for one in asked["parameters"]] == ["zone", "camera"]
    fields = asked["requestBody"]["content"]["multipart/form-data"]["schema"]["properties"]
    assert set(fields) == {"file", "zone", "camera"}
    correction = api["paths"]["/corrections"]["post"]
    assert set(correction["responses"]) >= {"200", "400", "408", "413", "415", "503", "507"}
    assert "422" not in correction["responses"]  # its body would not be as the others
    assert [one["name"] for one in correction["parameters"]] == ["count"]


@pytest.mark.parametrize("path", ["/", "/docs", "/health", "/metrics", "/openapi.json"])
def test_head_is_answered_as_get_without_the_body(service, path):
    assert service.ask("HEAD", path) == (200, b"")
    assert service.ask("GET", path)[0] == 200


@pytest.mark.parametrize(
    "costly",
    [
        b"\xff\xd8" + b"\xff\xfe\0\2" * 4_900_000,  # comments
        png(*[(b"aaAa", b"")] * 1_600_000, (b"IDAT", zlib.compress(bytes(65 * 64)))),
    ],
    ids=["JPEG", "PNG"],
)
def test_a_costly_header_does_not_hold_the_event_loop(small_service, costly):
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(post, small_service, costly)
        slowest = 0.0
        while not waiting.done():
            start = time.monotonic()
            connection = http.client.HTTPConnection("127.0.0.1", small_service.port, timeout=60)
            connection.request("GET", "/health")
            assert connection.getresponse().read()
            slowest = max(slowest, time.monotonic() - start)
    assert waiting.result() == (400, None)
    assert slowest < 1


def test_a_frame_that_cannot_be_counted_is_a_500_of_its_own(small_service, blocked):
    narrow = encoded(Image.new("RGB", (16, 16)))
    blocked.fails = 16, 16
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(post, small_service)
        blocked.wait_for_batch()
        bad, good = pool.submit(post, small_service, narrow), pool.submit(post, small_service)
        wait_for_frames(small_service, 3)
        blocked.release.set()
        assert [one.result(30)[0] for one in (first, bad, good)] == [200, 500, 200]
    connection = http.client.HTTPConnection("127.0.0.1", small_service.port, timeout=60)
    connection.request("POST", "/count", narrow, JPEG)
    assert json.loads(connection.getresponse().read())["detail"] == (
        "the frame could not be counted (RuntimeError); the service's log has the reason"
    )


def wait_for_frames(server, frames: int) -> None:
    """Returns once so many frames wait for an answer."""
    metrics = b""
    while f"waiting_frames {frames}.0".encode() not in metrics:
        connection = http.client.HTTPConnection("127.0.0.1", server.port)
        connection.request("GET", "/metrics")
        metrics = connection.getresponse().read()


@pytest.fixture(scope="module")
def zoned_service(zoned_folder):
    counter = Counter.from_pretrained(zoned_folder)
    with serving(counter) as server:

        def ask(method, path, body, headers=JPEG):
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            status, text = answer.status, answer.read()
            connection.close()
            return status, json.loads(text)

        server.ask, server.counter = ask, counter
        yield server


def test_a_service_counts_in_the_zone_of_its_adapter(zoned_service):
    (counted, found), (refused, why) = (
        zoned_service.ask("POST", "/count", encoded(frame(1, size), "PNG"))
        for size in ((64, 48), (48, 36))
    )
    assert (counted, found["count"]) == (200, zoned_service.counter.count([frame(1)])[0].count)
    assert refused == 400
    assert why["detail"].startswith(
        "the frame cannot be counted: zone tills: has a corner at 30, 48"
    )


def test_a_request_may_name_zone_and_camera(zoned_service):
    counter, body = zoned_service.counter, encoded(frame(1), "PNG")
    tills, door = (
        counter.count([frame(1)], *names)[0].expected for names in ((), ("door", "hall"))
    )
    assert round(tills, 2) != round(door, 2)
    in_door = form(body, fields={"zone": "door", "camera": "hall"})
    for path, content, headers, zone, expected in (
        ("/count", form(body), FORM, "tills", tills),
        ("/count", in_door, FORM, "door", door),
        ("/count?zone=door&camera=hall", body, JPEG, "door", door),
        ("/count?camera=hall", form(body, fields={"zone": "door"}), FORM, "door", door),
    ):
        status, answer = zoned_service.ask("POST", path, content, headers)
        assert (status, answer.get("zone")) == (200, zone), answer
        assert len(answer["outline"]) == (4 if zone == "tills" else 3)
        assert answer["expected"] == round(expected, 2)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        (
            {"zone": "roof\n"},
            r"^zone roof.*: the adapter does not know it\. Choose one of door, tills, or",
        ),
        ({"zone": ""}, r"^zone : the adapter does not know it\. Choose one of door, tills, or"),
        ({"zone": "door"}, r"^zone door: has no outline for every camera, only for hall\."),
        (
            {"zone": "door", "camera": "yard"},
            r"^zone door: has no outline for the camera yard, only for hall\.",
        ),
        ({"zone": "a" * 1000}, r"^zone is a{60}\.\.\.; send at most 200 characters$"),
        ({"query": "?zone=door", "zone": "tills"}, "^zone is given 2 times; send it once$"),
    ],
)
def test_a_zone_that_cannot_be_counted_is_a_400_of_one_line(zoned_service, fields, says):
    path = "/count" + fields.get("query", "")
    names = {name: value for name, value in fields.items() if name != "query"}
    body = form(encoded(frame(1)), fields=names)
    status, answer = zoned_service.ask("POST", path, body, FORM)
    assert status == 400
    assert re.search(says, answer["detail"])
    assert "\n" not in answer["detail"]


def test_a_service_without_zones_knows_no_zone(service):
    status, answer = service.count(form(encoded(frame(1)), fields={"zone": "tills"}), FORM)
    assert (status, answer["detail"].partition(".")[0]) == (
        400, "zone tills: the adapter knows no zone",
    )  # fmt: skip
    assert service.count(encoded(frame(1)))[1]["zone"] is None


def test_a_full_queue_is_a_503_with_retry_after(small_service, blocked):
    with ThreadPoolExecutor(3) as pool:
        waiting: list[Future] = [pool.submit(post, small_service) for _ in range(3)]
        wait_for_frames(small_service, 3)
        assert post(small_service) == (503, "5")
        blocked.release.set()
        assert [one.result(30) for one in waiting] == [(200, None)] * 3
    assert post(small_service)[0] == 200


def test_a_late_answer_is_a_503_with_retry_after(small_service, blocked, monkeypatch):
    monkeypatch.setattr(service_module, "ANSWER_SECONDS", 0.05)
    assert post(small_service) == (503, "5")


def test_the_wait_for_a_decoder_is_part_of_the_time_of_an_answer(small_service, monkeypatch):
    """More slow frames than decoders. A shutdown does not wait for those that are given up."""
    monkeypatch.setattr(request_batcher, "MAX_QUEUED_FRAMES", 20)
    monkeypatch.setattr(service_module, "ANSWER_SECONDS", 0.2)
    slow = many_scans((4000, 4000), 95)
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: post(small_service, slow), range(16)))
    assert answers == [(503, "5")] * 16
    start = time.monotonic()
    small_service.should_exit = True
    small_service.thread.join(30)
    assert time.monotonic() - start < 10


def test_no_frame_is_written_to_disk(small_service, blocked, monkeypatch):
    def rollover(_: object) -> None:
        raise AssertionError("the file of a form is written to disk")

    monkeypatch.setattr(tempfile.SpooledTemporaryFile, "rollover", rollover)
    blocked.release.set()
    large = encoded(Image.new("RGB", (1200, 1000)), "BMP")  # 3.6 MB
    assert post(small_service, form(large), FORM) == (200, None)


def test_a_slow_upload_is_a_408(small_service, blocked, monkeypatch):
    monkeypatch.setattr(upload, "UPLOAD_SECONDS", 0.05)
    with socket.create_connection(("127.0.0.1", small_service.port)) as connection:
        connection.sendall(
            b"POST /count HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\nhalf"
        )
        assert connection.recv(4096).startswith(b"HTTP/1.1 408 ")
