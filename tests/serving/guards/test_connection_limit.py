"""Clients that are slow or silent."""

import contextlib
import http.client
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from llava_dvc.serving import server as server_module
from llava_dvc.serving.guards import connection_limit
from tests.conftest import frame
from tests.serving.requests import JPEG, encoded, get

UPLOAD = b"POST /count HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999999\r\n\r\n"
HEALTH = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
STARTS = {
    "nothing": b"",
    "half a head": b"POST /count HTTP/1.1\r\nHost: ",
    "an upload": UPLOAD + b"half",
    "an upload that nobody reads": UPLOAD.replace(b"/count", b"/health") + b"half",
    "an answered request": HEALTH,
    "half a request after an answered one": HEALTH + b"GET ",
}


@contextlib.contextmanager
def connections(server, number: int, start: bytes) -> Iterator[list[socket.socket]]:
    """Open connections that have sent `start`."""
    with contextlib.ExitStack() as stack:
        opened = []
        for _ in range(number):
            connection = socket.create_connection(("127.0.0.1", server.port), timeout=10)
            opened.append(stack.enter_context(connection))
            with contextlib.suppress(OSError):  # it is closed already
                connection.sendall(start)
        yield opened


@pytest.mark.parametrize("start", STARTS.values(), ids=STARTS)
def test_three_hundred_slow_clients_leave_room(service, start):
    with connections(service, 300, start):
        assert service.ask("GET", "/health")[0] == 200
        assert service.count(encoded(frame(1)), JPEG)[0] == 200


def is_closed(connection: socket.socket) -> bool:
    """Reads what is there; whether the other side has closed the connection."""
    connection.setblocking(False)
    try:
        while connection.recv(65536):
            pass
    except BlockingIOError:
        return False
    except ConnectionResetError:
        pass
    return True


@pytest.mark.parametrize("start", STARTS.values(), ids=STARTS)
def test_a_client_that_goes_on_slowly_is_closed(small_service, start, monkeypatch):
    monkeypatch.setattr(connection_limit, "HEAD_SECONDS", 0.3)
    monkeypatch.setattr(connection_limit, "REQUEST_SECONDS", 0.4)
    with connections(small_service, 1, start) as (connection,):
        since = time.monotonic()
        while not is_closed(connection):
            assert time.monotonic() - since < 3
            with contextlib.suppress(OSError):
                connection.send(b"x")
            threading.Event().wait(0.05)


def test_a_client_that_reads_no_answer_is_closed(small_service, monkeypatch):
    monkeypatch.setattr(connection_limit, "REQUEST_SECONDS", 0.4)
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", small_service.port))
        connection.sendall(HEALTH.replace(b"/health", b"/") * 2000)  # 16 MB of answers
        connection.settimeout(10)
        while small_service.server_state.total_requests < 50:
            threading.Event().wait(0.01)
        while small_service.server_state.connections:
            threading.Event().wait(0.01)
    assert small_service.server_state.total_requests < 2000


def test_each_request_of_a_connection_has_its_own_deadline(small_service, monkeypatch):
    monkeypatch.setattr(connection_limit, "HEAD_SECONDS", 1)
    connection = http.client.HTTPConnection("127.0.0.1", small_service.port, timeout=10)
    for _ in range(4):
        threading.Event().wait(0.4)
        connection.request("GET", "/health")
        answer = connection.getresponse()
        assert (answer.status, answer.read()[:15]) == (200, b'{"status":"ok",')
    connection.close()


def test_frames_in_work_are_not_replaced(small_service, blocked, monkeypatch):
    monkeypatch.setattr(connection_limit, "MAX_CONNECTIONS", 3)
    whole = encoded(frame(1))
    head = UPLOAD.replace(b"999999", str(len(whole)).encode())
    with connections(small_service, 2, head + whole) as waiting:
        blocked.wait_for_batch()
        with connections(small_service, 20, b""):
            assert get(small_service, "/health") == 200
        blocked.release.set()
        for connection in waiting:
            assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("start", STARTS.values(), ids=STARTS)
def test_a_slow_client_does_not_hold_the_shutdown(small_service, start, monkeypatch):
    monkeypatch.setattr(connection_limit, "LAST_SECONDS", 0.1)
    monkeypatch.setattr(server_module, "GRACE_SECONDS", 0.1)
    with connections(small_service, 1, start):
        assert get(small_service, "/health") == 200  # the server has read `start`
        since = time.monotonic()
        small_service.should_exit = True
        small_service.thread.join(10)
        assert not small_service.thread.is_alive()
        assert time.monotonic() - since < 3
