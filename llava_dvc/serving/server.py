"""`llava-dvc serve`: the HTTP server, from the bound port to the graceful shutdown."""

import asyncio
import socket
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from selectors import EVENT_READ, DefaultSelector
from typing import TextIO

import uvicorn
from starlette.types import ASGIApp

from llava_dvc.errors import UserError
from llava_dvc.serving.adapter_source import find_adapter
from llava_dvc.serving.counter import Counter
from llava_dvc.serving.guards.browser_guard import check_allowed_hosts, own_hosts
from llava_dvc.serving.guards.connection_limit import LimitedConnection
from llava_dvc.serving.page.corrections import CorrectionFolder
from llava_dvc.serving.page.served_model import describe_model
from llava_dvc.serving.service import build_app

ACCEPTED_AT_ONCE = 16
"""Far fewer than MAX_CONNECTIONS: a request is read before others replace its connection."""
WAITING_CONNECTIONS = 1024
"""In the kernel, before they are accepted."""
GRACE_SECONDS = 1.0
"""Time after SIGTERM in which a request on an open connection is still accepted."""


def serve(
    adapter: str | Path,
    host: str,
    port: int,
    allowed_hosts: Sequence[str] = (),
    keep_corrections: Path | None = None,
) -> None:
    """Loads `adapter` and serves it until SIGTERM or Ctrl-C.

    `allowed_hosts` are names of the service beside those of this machine. Frames that users correct
    go to the folder `keep_corrections`. Raises UserError when a name is none, the port cannot be
    bound, the folder cannot be used or the adapter cannot be loaded.
    """
    check_allowed_hosts(allowed_hosts)
    listener = bind_socket(host, port)  # before the model is loaded, which takes long
    corrections = CorrectionFolder(keep_corrections) if keep_corrections else None
    folder = find_adapter(adapter)
    counter = load_warm(folder)
    model = describe_model(adapter, folder, counter.recipe)
    hosts = own_hosts(host, listener.getsockname()[0])
    app = build_app(counter, hosts, allowed_hosts, model, corrections)
    with suppress(KeyboardInterrupt):  # Uvicorn raises it again after the shutdown
        GracefulServer(server_config(app)).run(sockets=[listener])
    if corrections:
        corrections.close()


def load_warm(adapter: str | Path) -> Counter:
    """Loads `adapter` and prepares it for the first frame."""
    counter = Counter.from_pretrained(adapter)
    counter.warm_up()
    return counter


def server_config(app: ASGIApp) -> uvicorn.Config:
    """Returns the settings of the server for `app`."""
    return uvicorn.Config(
        app,
        http=LimitedConnection,
        ws="none",  # a WebSocket would have no limits
        backlog=ACCEPTED_AT_ONCE,
        log_level="warning",
        access_log=False,
        server_header=False,
    )


def bind_socket(host: str, port: int) -> socket.socket:
    """Returns a socket that listens on `host` and `port`; port 0 is any free port.

    A port belongs to the first that listens on it. Clients wait until the server accepts them.
    """
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen()
    except (OSError, OverflowError, ValueError, TypeError) as error:  # the last for a broken name
        listener.close()
        raise UserError(
            f"{host}:{port}: cannot listen there ({error}). Choose another --host or --port."
        ) from None
    return listener


async def accept_waiting(listeners: Iterable[socket.socket], deadline: float) -> None:
    """Lets the event loop accept the connections that wait in the kernel. Closing the port would
    reset them.
    """
    with DefaultSelector() as waiting:
        for listener in listeners:
            waiting.register(listener, EVENT_READ)
        while waiting.select(0) and time.monotonic() < deadline:
            await asyncio.sleep(0.001)


class GracefulServer(uvicorn.Server):
    """A Uvicorn server that prints its address, and answers late requests when it shuts down."""

    def __init__(self, config: uvicorn.Config, output: TextIO | None = None) -> None:
        """`output` is where the address is printed. None is standard output."""
        super().__init__(config)
        self._output = output or sys.stdout

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listener in sockets or []:
            listener.listen(WAITING_CONNECTIONS)  # asyncio accepts as many at once as it lets wait
            host, port = listener.getsockname()[:2]
            name = f"[{host}]" if ":" in host else host
            self._output.write(f"listening on http://{name}:{port}\n")
        self._output.flush()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Closes the port, accepts requests on open connections for GRACE_SECONDS, answers all.

        Uvicorn alone closes idle connections at once. A client that has just sent a request on
        one would get no answer.
        """
        deadline = time.monotonic() + GRACE_SECONDS
        for server in self.servers:
            await accept_waiting(server.sockets, deadline)
            server.close()
        self.server_state.default_headers.append((b"connection", b"close"))
        while self.server_state.connections and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        await super().shutdown(sockets)
