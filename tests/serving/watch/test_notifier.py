"""Events through the real apprise, to a real receiver."""

import importlib.util
import io
import json
import logging
import os
import sys

import pytest

from llava_dvc.errors import UserError
from llava_dvc.serving.watch.notifier import Notifier, event_text
from tests.serving.watch.receivers import events

if importlib.util.find_spec("apprise") is None:
    assert not os.environ.get("CI"), "CI needs apprise, of the group dev"
    pytest.skip("needs apprise: uv sync", allow_module_level=True)


@pytest.fixture
def receiver(start_receiver):
    def make(*statuses, path="geheim"):
        server = start_receiver(statuses)
        url = f"json://user:geheim@127.0.0.1:{server.server_port}/{path}?+token=geheim"
        return server, Notifier(url, 2)

    return make


def test_events_arrive_in_order_as_text(receiver):
    server, notifier = receiver()
    on, off = events()
    notifier.send(on)
    notifier.send(off)
    server.wait_for(events=2)
    notifier.close()
    first, second = (json.loads(body) for body, _ in server.accepted)
    assert (first["title"], first["type"]) == ("Alert on: hall > 40 for 4s", "warning")
    assert first["message"] == (
        "hall: 50 people (80 % interval 47 to 53) at 2026-11-26T08:00:04.000+00:00. "
        "It began at 2026-11-26T08:00:00.000+00:00."
    )
    assert (second["title"], second["type"]) == ("Alert off: hall > 40 for 4s", "success")
    assert event_text(on.content() | {"zone": "tills"}).startswith("hall/tills: 50 people")


@pytest.fixture
def log():
    """What is logged with warnings and errors, by whatever library."""
    handler = logging.StreamHandler(io.StringIO())
    handler.setLevel(logging.WARNING)
    logging.getLogger().addHandler(handler)
    yield handler.stream
    logging.getLogger().removeHandler(handler)


def test_an_event_is_tried_again_and_only_its_number_is_logged(receiver, log, capfd):
    server, notifier = receiver(500, 404)
    for event in events():
        notifier.send(event)
    server.wait_for(events=2)
    notifier.close()
    assert server.attempts == 4
    assert [json.loads(body)["type"] for body, _ in server.accepted] == ["warning", "success"]
    assert log.getvalue() == "--notify 2 (JSON): is not accepted; it is tried again\n"
    assert "geheim" not in "".join(capfd.readouterr())


def test_what_cannot_be_sent_does_not_hold_up_the_end(receiver, log):
    server, notifier = receiver()
    server.shutdown()
    server.server_close()
    for event in events():
        notifier.send(event)
    notifier.close()
    line = "--notify 2 (JSON): gave up on hall > 40 for 4s: is not accepted\n"
    assert log.getvalue().count(line) == 2


@pytest.mark.parametrize("url", ["geheim", "geheim://x", "slack://geheim", "json://", "http://["])
def test_an_address_that_apprise_does_not_know_is_one_line_without_it(url, log, capfd):
    with pytest.raises(UserError, match=r"^--notify: number 3 is not an address that") as caught:
        Notifier(url, 3)
    assert "geheim" not in "".join([str(caught.value), log.getvalue(), *capfd.readouterr()])


def test_without_apprise_the_command_to_install_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "apprise", None)
    with pytest.raises(
        UserError, match=r"^--notify: needs the package apprise.*llava-dvc\[alerts\]"
    ):
        Notifier("json://127.0.0.1", 1)
