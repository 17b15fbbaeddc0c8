"""Events of alerts at a real receiver."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from llava_dvc.errors import UserError
from llava_dvc.serving.watch import webhook as webhook_module
from llava_dvc.serving.watch.alerts import Alert, parse_alerts
from llava_dvc.serving.watch.webhook import SECRET, SIGNATURE, Webhook, sign
from tests.serving.watch.readings import reading


class Receiver(ThreadingHTTPServer):
    """Answers with `statuses`, then with 200; keeps what it accepted."""

    def __init__(self, statuses=()):
        super().__init__(("127.0.0.1", 0), Receipt)
        self.statuses = list(statuses)
        self.attempts = 0
        self.accepted = []
        self.changed = threading.Condition()
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def wait_for(self, events=0, attempts=0):
        with self.changed:
            done = lambda: len(self.accepted) >= events and self.attempts >= attempts  # noqa: E731
            assert self.changed.wait_for(done, 10)


class Receipt(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        with self.server.changed:
            status = self.server.statuses.pop(0) if self.server.statuses else 200
            self.server.attempts += 1
            if status == 200:
                self.server.accepted.append((body, self.headers[SIGNATURE]))
            self.server.changed.notify_all()
        self.send_response(status)
        if status == 302:
            self.send_header("Location", "/elsewhere")
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def receiver(monkeypatch):
    monkeypatch.setattr(webhook_module, "FIRST_WAIT", 0.01)
    servers = []

    def make(*statuses):
        servers.append(Receiver(statuses))
        url = f"http://127.0.0.1:{servers[-1].server_port}/hook/token"
        return servers[-1], Webhook(url, {SECRET: "s3cret-of-tests"})

    yield make
    for server in servers:
        server.shutdown()
        server.server_close()


def events():
    """Once on, once off."""
    (rule,) = parse_alerts(["hall > 40 for 4s"], ["hall"])
    alert = Alert(rule, 2.0)
    counts = [50, 50, 50, 20, 20, 20]
    found = [alert.step(reading(2 * place, count)) for place, count in enumerate(counts)]
    return list(filter(None, found))


def test_events_arrive_signed_and_in_order(receiver):
    server, hook = receiver()
    for event in events():
        hook.send(event)
    server.wait_for(events=2)
    hook.close()
    bodies = [json.loads(body) for body, _ in server.accepted]
    assert [body["state"] for body in bodies] == ["on", "off"]
    known = {"alert": "hall > 40 for 4s", "camera": "hall", "count": 50, "low": 47, "high": 53,
             "since": "2026-11-26T08:00:00.000+00:00",
             "time": "2026-11-26T08:00:04.000+00:00"}  # fmt: skip
    assert known.items() <= bodies[0].items()
    assert bodies[0]["id"] != bodies[1]["id"]
    for body, signature in server.accepted:
        assert signature == sign("s3cret-of-tests", body)
    assert sign("", b"") == (  # HMAC-SHA256 of nothing, from its RFC's tools
        "sha256=b613679a0814d9ec772f95d778c35fc5ff1697c493715653c6c712144292c5ad"
    )


def test_an_event_is_tried_again_until_it_is_accepted(receiver, caplog):
    server, hook = receiver(503, 503, 429)
    for event in events():
        hook.send(event)
    server.wait_for(events=2)
    hook.close()
    assert server.attempts == 5
    assert [json.loads(body)["state"] for body, _ in server.accepted] == ["on", "off"]
    assert caplog.messages == ["webhook 127.0.0.1: answers 503; it is tried again"]


@pytest.mark.parametrize("status", [404, 302])
def test_an_event_that_is_refused_is_given_up_and_the_next_one_is_sent(receiver, caplog, status):
    server, hook = receiver(status)
    for event in events():
        hook.send(event)
    server.wait_for(events=1)
    hook.close()
    assert server.attempts == 2
    assert f"gave up on hall > 40 for 4s: answers {status}" in caplog.text
    assert "token" not in caplog.text


def test_what_cannot_be_sent_does_not_hold_up_the_end(receiver, caplog):
    server, hook = receiver()
    server.shutdown()
    server.server_close()
    for event in events():
        hook.send(event)
    hook.close()
    assert caplog.text.count("gave up") == 2


def test_the_secret_and_the_address_are_needed():
    with pytest.raises(UserError, match=rf"^{SECRET}: is not set, and --webhook signs with it"):
        Webhook("http://a/b", {})
    for url in ("a/b", "ftp://a/b", "http://", "http://a:x/b"):
        with pytest.raises(UserError, match=r"^--webhook: is not an address"):
            Webhook(url, {SECRET: "s"})
