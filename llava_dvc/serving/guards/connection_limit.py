"""Connections whose clients are slow or silent are closed, and leave room for the others."""

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

MAX_CONNECTIONS = 256
"""More than the uploads and queued frames together, so that there is always one to replace."""
HEAD_SECONDS = 10.0
"""From a new connection, or the last answer, to the end of a request's headers."""
REQUEST_SECONDS = 120.0
"""From a request's headers to its answer. Uploads and queued frames have shorter limits."""
LAST_SECONDS = 3.0
"""For a client that is slow or silent when the service shuts down."""


class LimitedConnection(H11Protocol):
    """Uvicorn's connection with a deadline. A new one over MAX_CONNECTIONS replaces an idle one."""

    _deadline: asyncio.TimerHandle

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._deadline = self.loop.call_later(HEAD_SECONDS, transport.abort)
        if len(self.connections) > MAX_CONNECTIONS:
            idle = (one for one in self.connections if isinstance(one, LimitedConnection))
            idle = (one for one in idle if one.is_idle and not one.transport.is_closing())
            min(idle, key=lambda one: one._deadline.when()).transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._deadline.cancel()
        super().connection_lost(exc)

    def handle_events(self) -> None:
        before = self.cycle
        super().handle_events()
        if self.cycle is not before:
            self._set_deadline(REQUEST_SECONDS)

    def on_response_complete(self) -> None:
        self._set_deadline(HEAD_SECONDS)  # first, because the next request may be there already
        super().on_response_complete()

    def shutdown(self) -> None:
        """Called once when the server shuts down. A request that is complete is still answered."""
        super().shutdown()
        if self.is_idle or self.cycle.more_body:
            self._set_deadline(LAST_SECONDS)

    @property
    def is_idle(self) -> bool:
        """Whether there is no request, or an answer that the client is slow to take."""
        return self.cycle is None or self.cycle.response_started or self.flow.write_paused

    def _set_deadline(self, seconds: float) -> None:
        self._deadline.cancel()
        if not self.transport.is_closing():
            self._deadline = self.loop.call_later(seconds, self.transport.abort)
