"""Clients that try to harm a service. Each goes on until `stop` is set."""

import contextlib
import http.client
import io
import socket
import threading
import zlib
from collections import Counter as Tally
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image

from tests.conftest import frame
from tests.serving.guards.broken_images import costly_images, mutated_images, png
from tests.serving.requests import FORM, JPEG, encoded, form

Attack = Callable[[int, threading.Event], None]
UPLOAD_BYTES = 19_900_000
HEAD = b"POST /count HTTP/1.1\r\nHost: localhost\r\n"
UPLOAD = HEAD + b"Content-Length: %d\r\n\r\n" % UPLOAD_BYTES


def send(port: int, body: bytes, headers: dict[str, str], path: str = "/count") -> int:
    """Posts a body; returns the status, 0 if the connection was closed before the answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    try:
        connection.request("POST", path, body, headers)
        answer = connection.getresponse()
        answer.read()
        return answer.status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()


class Pictures:
    """An attack that posts these pictures in turn; `statuses` counts the answers."""

    def __init__(self, pictures: list[bytes], pause: float = 0.1) -> None:
        self.pictures, self.pause = pictures, pause
        self.statuses: Tally[int] = Tally()

    def __call__(self, port: int, stop: threading.Event) -> None:
        while not stop.is_set():
            for picture in self.pictures:
                self.statuses[send(port, picture, JPEG)] += 1
                if stop.wait(self.pause):
                    return


def huge_pictures() -> list[bytes]:
    """As large as the service takes, or larger, in pixels, sides or chunks."""
    noise = np.random.default_rng(0).integers(0, 255, (1000, 1000, 3), dtype=np.uint8)
    tiles = Image.fromarray(np.tile(noise, (5, 5, 1)))  # 25 megapixels
    jpeg = io.BytesIO()
    tiles.save(jpeg, "JPEG", quality=60, progressive=True)
    return [
        jpeg.getvalue(),
        encoded(Image.new("RGB", (5000, 5000), "red"), "PNG"),
        encoded(Image.new("L", (16, 16_384), 90), "PNG"),
        encoded(Image.new("L", (16_384, 16), 90), "PNG"),
        encoded(Image.new("RGB", (16_384, 1500), 90), "PNG"),
        encoded(Image.new("1", (8000, 8000)), "PNG"),
        png(*[(b"aaAa", b"")] * 1_600_000, (b"IDAT", zlib.compress(bytes(65 * 64)))),
    ]


def picture_attacks() -> list[Pictures]:
    costly = list(costly_images().values())
    return [
        Pictures(costly),
        Pictures(costly[::-1]),
        Pictures(huge_pictures()),
        Pictures(list(mutated_images(seed=18, number=200)), 0.02),
    ]


def open_connections(
    port: int, stop: threading.Event, number: int, starts: Iterator[bytes]
) -> Iterator[list[socket.socket]]:
    """Yields open connections until `stop`, with new ones in place of those that were closed."""
    opened: list[socket.socket] = []
    try:
        while not stop.is_set():
            while len(opened) < number and not stop.is_set():
                with contextlib.suppress(OSError):
                    connection = socket.create_connection(("127.0.0.1", port), timeout=5)
                    opened.append(connection)
                    try:
                        connection.sendall(next(starts))
                    finally:
                        connection.setblocking(False)
            yield opened
            opened = [one for one in opened if not _is_closed(one)]
    finally:
        for connection in opened:
            connection.close()


def _is_closed(connection: socket.socket) -> bool:
    try:
        return connection.recv(65536) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def silent(port: int, stop: threading.Event) -> None:
    """Three hundred connections that say nothing, or stop in the middle of a request."""
    health = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    starts = [b"", b"POST /count HTTP/1.1\r\nHost: ", UPLOAD, health, health + b"GET ",
              HEAD + b"Transfer-Encoding: chunked\r\n\r\nf4240\r\n"]  # fmt: skip
    endless = (start for _ in iter(int, 1) for start in starts)
    for _ in open_connections(port, stop, 300, endless):
        stop.wait(1)


def slow(port: int, stop: threading.Event) -> None:
    """A hundred connections that send a byte a second of a head or a body."""
    starts = (start for _ in iter(int, 1) for start in (UPLOAD, b"GET /health HTTP/1.1\r\nX: "))
    for opened in open_connections(port, stop, 100, starts):
        for connection in opened:
            with contextlib.suppress(OSError):
                connection.send(b"x")
        stop.wait(1)


def unfinished(port: int, stop: threading.Event) -> None:
    """A hundred uploads of 20 MB without their end, as bodies and as forms."""
    body = bytes(UPLOAD_BYTES - 1000)
    begin = form(b"")[:-12]
    of_form = b"Content-Type: %s\r\n" % FORM["Content-Type"].encode()
    starts = [
        UPLOAD + body,
        UPLOAD.replace(b"\r\n\r\n", b"\r\n" + of_form + b"\r\n") + begin + body,
    ]
    endless = (start for _ in iter(int, 1) for start in starts)
    for _ in open_connections(port, stop, 100, endless):
        stop.wait(2)


def odd_requests(port: int, stop: threading.Event) -> None:
    """Lengths, paths, types, hosts and pages that are refused; clients that leave."""
    ordinary = encoded(frame(1, (640, 480)))
    heads = [
        HEAD + b"Content-Length: 99999999999999999999\r\n\r\nx",
        HEAD + b"Content-Length: 1\r\nContent-Type: " + b"a" * 60_000 + b"\r\n\r\nx",
        HEAD.replace(b"/count", b"/count%0A") + b"Transfer-Encoding: chunked\r\n\r\n"
        + (b"f4240\r\n" + bytes(1_000_000) + b"\r\n") * 30,
        HEAD.replace(b"localhost", b"evil.example") + b"Content-Length: 0\r\n\r\n",
        HEAD + b"Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        b"\x16\x03\x01\0\xff garbage\r\n\r\n",
    ]  # fmt: skip
    bomb = b"--edge\r\n" + b"a: b\r\n" * 1_000_000
    while not stop.is_set():
        for head in heads:
            with (
                contextlib.suppress(OSError),
                socket.create_connection(("127.0.0.1", port), 5) as it,
            ):
                it.settimeout(5)
                it.sendall(head)
                it.recv(65536)
        send(port, bomb, FORM)
        send(port, ordinary, JPEG | {"Origin": "http://evil.example"})
        for _ in range(20):  # leave before the answer
            with (
                contextlib.suppress(OSError),
                socket.create_connection(("127.0.0.1", port), 5) as it,
            ):
                it.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(ordinary) + ordinary)
        stop.wait(1)


def unread(port: int, stop: threading.Event) -> None:
    """Ten connections that ask for pages and read none."""
    pages = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" * 500
    opened: list[socket.socket] = []
    while not stop.is_set():
        for connection in opened:
            connection.close()
        opened = []
        for _ in range(10):
            with contextlib.suppress(OSError):
                connection = socket.create_connection(("127.0.0.1", port), timeout=1)
                opened.append(connection)
                connection.sendall(pages)
        stop.wait(10)
