"""`llava-dvc serve` over real sockets."""

import http.client
import io
import json
import re
import socket
import tempfile
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from llava_dvc.serving import service as service_module
from llava_dvc.serving import upload
from llava_dvc.serving.counter import Counter
from tests.conftest import frame
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


def test_a_form_is_counted_as_a_body(service):
    body = encoded(frame(5))
    assert service.count(form(body), FORM) == service.count(body)


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
def test_a_bad_upload_is_a_4xx_with_the_reason(service, body, headers, status, says):
    got, answer = service.count(body, headers)
    assert got == status
    assert re.search(says, answer["detail"])


def test_the_service_survives_a_broken_upload(service):
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


def test_a_full_queue_is_a_503_with_retry_after(small_service, blocked):
    with ThreadPoolExecutor(3) as pool:
        waiting: list[Future] = [pool.submit(post, small_service) for _ in range(3)]
        metrics = b""
        while b"waiting_frames 3.0" not in metrics:
            connection = http.client.HTTPConnection("127.0.0.1", small_service.port)
            connection.request("GET", "/metrics")
            metrics = connection.getresponse().read()
        assert post(small_service) == (503, "5")
        blocked.release.set()
        assert [one.result(30) for one in waiting] == [(200, None)] * 3
    assert post(small_service)[0] == 200


def test_a_late_answer_is_a_503_with_retry_after(small_service, blocked, monkeypatch):
    monkeypatch.setattr(service_module, "ANSWER_SECONDS", 0.05)
    assert post(small_service) == (503, "5")


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
        connection.sendall(b"POST /count HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\nhalf")
        assert connection.recv(4096).startswith(b"HTTP/1.1 408 ")
