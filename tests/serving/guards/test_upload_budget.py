"""Unfinished uploads of many clients."""

import contextlib
import socket
import threading

import pytest

from llava_dvc.serving.guards import upload_budget
from tests.conftest import frame
from tests.serving.requests import FORM, encoded, form, get, post

HEAD = b"POST /count HTTP/1.1\r\nHost: localhost\r\n"
STATED = HEAD + b"Content-Length: 5000000\r\n"
STARTS = {
    "body": STATED + b"\r\n",
    "form": STATED + f"Content-Type: {FORM['Content-Type']}\r\n\r\n".encode() + form(b"")[:-12],
    "chunks": HEAD + b"Transfer-Encoding: chunked\r\n\r\nf4240\r\n",
}


@pytest.fixture
def budgets(monkeypatch):
    """The budgets of all services that start in the test."""
    made, begin = [], upload_budget.UploadBudget.__init__

    def kept(self) -> None:
        made.append(self)
        begin(self)

    monkeypatch.setattr(upload_budget.UploadBudget, "__init__", kept)
    return made


def begun_upload(service, content):
    """A connection that has sent `content`, the beginning of an upload. The service answers."""
    connection = socket.create_connection(("127.0.0.1", service.port), timeout=10)
    connection.sendall(content)
    assert get(service, "/health") == 200
    return connection


@pytest.mark.parametrize("start", STARTS.values(), ids=STARTS)
def test_unfinished_uploads_hold_no_more_than_the_budget(
    budgets, small_service, blocked, start, monkeypatch
):
    monkeypatch.setattr(upload_budget, "MAX_UPLOAD_BYTES", 2_000_000)
    blocked.release.set()
    with contextlib.ExitStack() as stack:
        opened = []
        for _ in range(12):
            opened.append(stack.enter_context(begun_upload(small_service, start + bytes(500_000))))
            assert sum(upload.held for upload in budgets[0]._unfinished) <= 2_000_000
        # The oldest one makes room, and is told so.
        answer = opened[0].recv(65536)
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after: 5" in answer
        assert answer.endswith(b'{"detail":"too many frames wait; retry after 5 s"}')
        assert post(small_service) == (200, None)
        assert post(small_service, form(encoded(frame(1))), FORM) == (200, None)
    while budgets[0]._unfinished:
        threading.Event().wait(0.01)
    assert budgets[0]._held == 0


def test_the_upload_that_began_first_makes_room(small_service, blocked, monkeypatch):
    monkeypatch.setattr(upload_budget, "MAX_UPLOADS", 2)
    blocked.release.set()
    with contextlib.ExitStack() as stack:
        opened = []
        for _ in range(3):
            opened.append(stack.enter_context(begun_upload(small_service, STARTS["body"])))
        assert opened[0].recv(65536).startswith(b"HTTP/1.1 503 ")
        for connection in opened[1:]:
            connection.setblocking(False)
            with pytest.raises(BlockingIOError):
                connection.recv(1)


def test_frames_that_wait_for_a_decoder_are_in_the_budget(small_service, blocked, monkeypatch):
    """A frame is released when it is decoded, not when it is counted."""
    whole = encoded(frame(1))
    monkeypatch.setattr(upload_budget, "MAX_UPLOAD_BYTES", len(whole) + 100)
    blocked.release.set()
    for _ in range(3):
        assert post(small_service, whole) == (200, None)
    monkeypatch.setattr(upload_budget, "MAX_UPLOAD_BYTES", len(whole) - 100)
    assert post(small_service, whole) == (503, "5")
