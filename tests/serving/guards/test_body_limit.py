"""Bodies over the limit, on every path."""

import json
import time

import pytest

from tests.serving.requests import exchange

TOO_LARGE = {"detail": "the body is over 20,000,000 bytes; send less"}


@pytest.mark.parametrize("path", ["/count", "/count%0A", "/count/", "/health", "/nothing"])
@pytest.mark.parametrize("length", ["20000001", "99999999999999999999"])
def test_a_stated_length_over_the_limit_is_answered_at_once(small_service, path, length):
    head = f"POST {path} HTTP/1.1\nHost: localhost\nContent-Length: {length}"
    start = time.monotonic()
    answer = exchange(small_service, head, b"x")
    assert time.monotonic() - start < 3
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2]) == TOO_LARGE


def test_a_client_that_asks_first_is_not_told_to_go_on(small_service):
    head = "POST /count HTTP/1.1\nHost: localhost\nContent-Length: 20000001\nExpect: 100-continue"
    assert exchange(small_service, head).startswith(b"HTTP/1.1 413 ")


def test_chunks_over_the_limit_are_a_413(small_service):
    head = "POST /count HTTP/1.1\nHost: localhost\nTransfer-Encoding: chunked"
    chunk = b"f4240\r\n" + bytes(1_000_000) + b"\r\n"
    assert exchange(small_service, head, chunk * 21 + b"0\r\n\r\n").startswith(b"HTTP/1.1 413 ")


def test_a_path_with_a_line_end_does_not_reach_the_handler(small_service):
    head = "POST /count%0A HTTP/1.1\nHost: localhost\nContent-Length: 1\nConnection: close"
    answer = exchange(small_service, head, b"x")
    assert answer.startswith(b"HTTP/1.1 404 ")
    detail = "there is no /count\\n; POST a frame to /count"
    assert json.loads(answer.partition(b"\r\n\r\n")[2]) == {"detail": detail}
