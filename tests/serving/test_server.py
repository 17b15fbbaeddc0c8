"""The server's port, and its graceful shutdown."""

import http.client
import signal
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from llava_dvc.errors import UserError
from llava_dvc.serving import server as server_module
from tests.conftest import frame
from tests.serving.conftest import ServiceProcess
from tests.serving.requests import JPEG, encoded, post


def test_a_taken_port_is_an_error_before_the_model_is_loaded(service):
    with pytest.raises(UserError, match=rf"127\.0\.0\.1:{service.port}: cannot listen there"):
        server_module.serve("no adapter", "127.0.0.1", service.port)


def test_a_port_belongs_to_the_first_that_asks():
    """Two services that start at once: the second ends before it loads its model."""
    with (
        server_module.bind_socket("127.0.0.1", 0) as first,
        pytest.raises(UserError, match=r"cannot listen there \(.*in use\)\. Choose another"),
    ):
        server_module.bind_socket("127.0.0.1", first.getsockname()[1])


@pytest.mark.parametrize(
    ("host", "port"),
    [("127.0.0.1", 65536), ("127.0.0.1", -1), ("a" * 64, 0), ("a..b", 0), ("\udcff", 0)],
)
def test_a_name_or_port_that_none_can_have_is_one_line(host, port):
    with pytest.raises(UserError, match=rf"^{host}:{port}: cannot listen there \(.+\)\. Choose"):
        server_module.bind_socket(host, port)


def test_sigterm_loses_no_request(adapter_folder):
    running = ServiceProcess(adapter_folder)
    bodies = [encoded(frame(seed)) for seed in range(8)]

    def client(number: int) -> list[int | str]:
        """Sends frames until the port is closed; returns the status or error of each request."""
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


def until_refused(server) -> None:
    while True:
        try:
            socket.create_connection(("127.0.0.1", server.port)).close()
        except ConnectionRefusedError:
            return


def test_accepted_requests_are_answered_after_the_grace_period(small_service, blocked, monkeypatch):
    monkeypatch.setattr(server_module, "GRACE_SECONDS", 0.01)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(post, small_service)
        blocked.wait_for_batch()
        small_service.should_exit = True
        until_refused(small_service)
        threading.Event().wait(0.5)  # well after the grace period
        blocked.release.set()
        assert waiting.result(30) == (200, None)


def test_a_connection_that_was_not_yet_accepted_is_answered(small_service, blocked, monkeypatch):
    """The kernel opens it while the server shuts down."""
    blocked.release.set()
    connection = http.client.HTTPConnection("127.0.0.1", small_service.port, timeout=60)
    shut_down, sent = small_service.shutdown, threading.Event()

    async def after_a_request(sockets=None):
        connection.request("POST", "/count", encoded(frame(1)), JPEG)
        sent.set()
        await shut_down(sockets)

    monkeypatch.setattr(small_service, "shutdown", after_a_request)
    small_service.should_exit = True
    assert sent.wait(30)
    assert connection.getresponse().status == 200


def test_an_open_connection_gets_a_last_answer(small_service, blocked, monkeypatch):
    monkeypatch.setattr(server_module, "GRACE_SECONDS", 20)
    blocked.release.set()
    connection = http.client.HTTPConnection("127.0.0.1", small_service.port, timeout=60)
    connection.request("GET", "/health")
    assert connection.getresponse().read()
    small_service.should_exit = True
    until_refused(small_service)
    connection.request("POST", "/count", encoded(frame(1)), JPEG)
    answer = connection.getresponse()
    assert (answer.status, answer.getheader("Connection")) == (200, "close")
