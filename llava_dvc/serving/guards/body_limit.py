"""The limit of a request's body, for every path."""

import asyncio

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY_BYTES = 20_000_000
MAX_DRAINED_BYTES = 10 * MAX_BODY_BYTES
"""Read from a larger body before the connection is closed."""
DRAIN_SECONDS = 10.0
PAUSE_SECONDS = 0.5
"""A client that sends nothing for so long reads the answer, or is gone."""


class BodyTooLarge(Exception):
    """The body has more than MAX_BODY_BYTES bytes."""


class LimitBody:
    """ASGI middleware that answers 413 to a body over MAX_BODY_BYTES, as soon as it is known."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            stated = Headers(scope=scope).get("content-length", "")
            if stated.isdecimal() and int(stated) > MAX_BODY_BYTES:
                raise BodyTooLarge
            await self.app(scope, _limited(receive), send)
        except BodyTooLarge:
            await _refuse(scope, receive, send)


def _limited(receive: Receive) -> Receive:
    """Wraps `receive`: it raises BodyTooLarge."""
    received = 0

    async def receive_within_limit() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > MAX_BODY_BYTES:
            raise BodyTooLarge
        return message

    return receive_within_limit


async def _refuse(scope: Scope, receive: Receive, send: Send) -> None:
    """Sends the whole answer, then reads what the client still sends, then ends the response.

    A client that is still uploading does not read a response. If the connection were closed at
    once, it would get a connection error instead of the answer.
    """

    async def send_and_drain(message: Message) -> None:
        if message["type"] == "http.response.body":
            await send({**message, "more_body": True})
            await _drain(receive)
            message = {**message, "body": b""}
        await send(message)

    detail = f"the body is over {MAX_BODY_BYTES:,} bytes; send less"
    answer = JSONResponse({"detail": detail}, 413, {"Connection": "close"})
    await answer(scope, receive, send_and_drain)


async def _drain(receive: Receive) -> None:
    drained = 0
    try:
        async with asyncio.timeout(DRAIN_SECONDS):
            while drained < MAX_DRAINED_BYTES:
                message = await asyncio.wait_for(receive(), PAUSE_SECONDS)
                drained += len(message.get("body", b""))
                if not message.get("more_body"):
                    return
    except TimeoutError:
        return
