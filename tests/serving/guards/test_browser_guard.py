"""Requests that a page of another site makes through a visitor's browser."""

import asyncio
import json

import pytest
from starlette.responses import PlainTextResponse

from llava_dvc.errors import UserError
from llava_dvc.serving import server as server_module
from llava_dvc.serving.guards.browser_guard import LOCAL_HOSTS, GuardBrowsers, own_hosts
from tests.serving.requests import JPEG, exchange

FOREIGN_HOST = (
    "the Host header is evil.example, not a name of this service; to allow it, start the service "
    "with --allowed-host"
)
FOREIGN_PAGE = (
    "the Origin header is http://evil.example, a page of another site; to allow it, start with "
    "--allowed-host"
)


def answer(host="127.0.0.1:8000", origin=None, method="POST", own=LOCAL_HOSTS, allowed=()):
    """The status of a request with these headers, and the reason."""
    headers = [(b"host", host.encode())] if host is not None else []
    headers += [(b"origin", origin.encode())] if origin is not None else []
    scope = {"type": "http", "method": method, "path": "/count", "headers": headers}
    sent = []

    async def send(message):
        sent.append(message)

    app = GuardBrowsers(PlainTextResponse("counted"), own, allowed)
    asyncio.run(app(scope, None, send))
    body = sent[1]["body"]
    return sent[0]["status"], "" if body == b"counted" else json.loads(body)["detail"]


@pytest.mark.parametrize("host", ["localhost", "LocalHost:80", "127.0.0.1:8000", "[::1]:8000"])
def test_names_of_this_machine_are_allowed(host):
    assert answer(host) == (200, "")
    assert answer(host, origin=f"http://{host}") == (200, "")


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_foreign_host_is_refused(method):
    assert answer("evil.example", method=method) == (400, FOREIGN_HOST)
    assert answer("evil.example:8000", "http://evil.example:8000", method)[0] == 400


@pytest.mark.parametrize(
    "host",
    [
        None,
        "",
        "localhost.evil.example",
        "evil.example:localhost",
        "[::2]",
        "a@localhost",
        "x" * 999,
    ],
)
def test_other_foreign_hosts_are_refused_in_a_short_line(host):
    status, reason = answer(host)
    assert status == 400
    assert len(reason) < 200


@pytest.mark.parametrize(
    "origin",
    ["null", "http://127.0.0.1:3000", "http://localhost:8000", "http://127.0.0.1:x", "", "//x", "[",
     "http://127.0.0.1:8000.evil.example", "file://", "http://é", "x" * 999],
)  # fmt: skip
def test_a_frame_from_a_page_of_another_site_is_refused(origin):
    status, reason = answer(origin=origin)
    assert status == 403
    assert len(reason) < 200


def test_a_foreign_page_may_read_no_more_than_browsers_allow():
    assert answer(origin="http://evil.example") == (403, FOREIGN_PAGE)
    assert answer(origin="http://evil.example", method="GET") == (200, "")


def test_allowed_hosts_are_names_and_pages():
    allowed = ["count.example.com", "*.lab.example"]
    for host in ("count.example.com", "a.lab.example:8443"):
        assert answer(host, f"https://{host}", allowed=allowed) == (200, "")
        # A proxy that does TLS may send its own address as Host.
        assert answer("127.0.0.1:8000", f"https://{host}", allowed=allowed) == (200, "")
    assert answer("example.com", allowed=allowed)[0] == 400


def test_every_host_is_not_every_page():
    assert answer("any.example", allowed=["*"]) == (200, "")
    assert answer("any.example", "http://any.example", allowed=["*"]) == (200, "")
    assert answer("any.example", "http://evil.example", allowed=["*"])[0] == 403


def test_hosts_follow_from_the_address_that_is_opened():
    assert set(LOCAL_HOSTS) <= set(own_hosts("localhost", "127.0.0.1"))
    assert own_hosts("camera-box", "192.0.2.7") == ["192.0.2.7", "camera-box"]
    assert own_hosts("2001:db8::7", "2001:db8::7") == ["[2001:db8::7]"]
    assert set(LOCAL_HOSTS) <= set(own_hosts("0.0.0.0", "0.0.0.0"))
    assert "0.0.0.0" not in own_hosts("0.0.0.0", "0.0.0.0")


@pytest.mark.parametrize(
    "name", ["https://a.example", "a.example:80", "a.example/x", "", "*a", "a*"]
)
def test_an_allowed_host_is_checked_before_the_model_is_loaded(name):
    with pytest.raises(UserError, match=r"^--allowed-host: is .*\. Give a name or an address"):
        server_module.serve("no adapter", "127.0.0.1", 0, [name])


def test_the_service_refuses_them_and_does_not_redirect(service):
    evil = {"Host": "evil.example", **JPEG}
    assert service.count(b"x", evil) == (400, {"detail": FOREIGN_HOST})
    assert service.count(b"x", {"Origin": "http://evil.example", **JPEG}) == (
        403,
        {"detail": FOREIGN_PAGE},
    )
    for path in ("/count/", "/health/", "/docs/"):
        head = f"POST {path} HTTP/1.1\nHost: localhost\nContent-Length: 0\nConnection: close"
        assert exchange(service, head).startswith(b"HTTP/1.1 404 ")
