"""Events of alerts at a real receiver."""

import json

import pytest

from llava_dvc.errors import UserError
from llava_dvc.serving.watch.webhook import SECRET, Webhook, sign
from tests.serving.watch.receivers import events


@pytest.fixture
def receiver(start_receiver):
    def make(*statuses):
        server = start_receiver(statuses)
        url = f"http://127.0.0.1:{server.server_port}/hook/token"
        return server, Webhook(url, {SECRET: "s3cret-of-tests"})

    return make


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
