"""Keeps pages of other sites from using the service through a visitor's browser."""

import ipaddress
import re
import socket
from collections.abc import Sequence
from urllib.parse import urlsplit

import psutil
from starlette.datastructures import Headers
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llava_dvc.errors import UserError

LOCAL_HOSTS = ("localhost", "127.0.0.1", "[::1]")
MAX_QUOTED = 60
"""Characters of a header in an error message."""
DEFAULT_PORTS = {"http": 80, "https": 443}

_ALLOWED_HOST = re.compile(r"\*|(\*\.)?[\w.-]+|\[[0-9a-fA-F:.]+\]", re.ASCII)


def shortened(value: str) -> str:
    """A value of a header, short and in ASCII, for an error message."""
    return ascii(value if len(value) <= MAX_QUOTED else value[:MAX_QUOTED] + "...")[1:-1]


def check_allowed_hosts(names: Sequence[str]) -> None:
    """Raises UserError for a value of --allowed-host that no Host header could match."""
    for name in names:
        if not _ALLOWED_HOST.fullmatch(name):
            raise UserError(
                f"--allowed-host: is {name!r}. Give a name or an address without scheme, port and "
                "path, for example count.example.com, *.example.com or [fd00::1]."
            )


def own_hosts(host: str, bound: str) -> list[str]:
    """The Host names of a service that listens on `host`, which is the address `bound`."""
    address = ipaddress.ip_address(bound.partition("%")[0])
    if address.is_loopback:
        names = {*LOCAL_HOSTS, host, bound}
    elif address.is_unspecified:
        interfaces = psutil.net_if_addrs().values()
        internet = {socket.AF_INET, socket.AF_INET6}
        addresses = {one.address for many in interfaces for one in many if one.family in internet}
        names = {*LOCAL_HOSTS, socket.gethostname(), *addresses}
    else:
        names = {host, bound}
    return sorted(_as_in_header(name) for name in names if name)


def _as_in_header(name: str) -> str:
    """An IPv6 address in brackets and without its zone; anything else unchanged."""
    if ":" not in name or name.startswith("["):
        return name
    return f"[{name.partition('%')[0]}]"


class GuardBrowsers:
    """ASGI middleware that refuses a foreign Host, a foreign Origin, and a path that is not text.

    The check of the Host ends DNS rebinding: a page whose name points to this machine sends its own
    name as Host. `allowed` are the names that the user gave, `own` those of the machine.
    """

    def __init__(self, app: ASGIApp, own: Sequence[str], allowed: Sequence[str]) -> None:
        self.app = app
        hosts = [*own, *allowed]
        self._hosts = TrustedHostMiddleware(_mark, hosts, www_redirect=False)
        # "*" allows every Host, because a proxy may check it. It does not allow every page.
        pages = [name for name in allowed if name != "*"]
        self._pages = TrustedHostMiddleware(_mark, pages, www_redirect=False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or (refusal := await self._refusal(scope)) is None:
            await self.app(scope, receive, send)
        else:
            await refusal(scope, receive, send)

    async def _refusal(self, scope: Scope) -> JSONResponse | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if not await _is_allowed(self._hosts, host):
            reason = f"the Host header is {shortened(host) or 'empty'}, not a name of this service"
            return _refused(400, f"{reason}; to allow it, start the service with --allowed-host")
        if scope["method"] not in ("GET", "HEAD"):
            for origin in headers.getlist("origin"):
                if not await self._is_own_page(origin, host):
                    reason = f"the Origin header is {shortened(origin)}, a page of another site"
                    return _refused(403, f"{reason}; to allow it, start with --allowed-host")
        if not scope["path"].isprintable():  # Starlette's routes match a line end after the path
            return _refused(404, f"there is no {shortened(scope['path'])}; POST a frame to /count")
        return None

    async def _is_own_page(self, origin: str, host: str) -> bool:
        try:
            page = urlsplit(origin)
            default = DEFAULT_PORTS[page.scheme]
            own = urlsplit(f"//{host}")
            if (page.hostname, page.port or default) == (own.hostname, own.port or default):
                return True
        except (KeyError, ValueError):  # "null", or not http
            return False
        return await _is_allowed(self._pages, page.netloc)


async def _mark(scope: Scope, receive: Receive, send: Send) -> None:
    scope["trusted"] = True


async def _is_allowed(check: TrustedHostMiddleware, host: str) -> bool:
    """Whether Starlette's check passes a request with this Host header."""
    scope: Scope = {"type": "http", "headers": [(b"host", host.encode("latin-1", "replace"))]}

    async def discard(_: Message) -> None:
        return None

    async def nothing() -> Message:
        return {"type": "http.disconnect"}

    if check.allow_any:
        return True
    await check(scope, nothing, discard)
    return "trusted" in scope


def _refused(status: int, detail: str) -> JSONResponse:
    return JSONResponse({"detail": detail}, status)
