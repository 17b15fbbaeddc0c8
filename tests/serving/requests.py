"""Requests to a service."""

import http.client
import io
import socket
from collections.abc import Mapping

from PIL import Image

from tests.conftest import frame

JPEG = {"Content-Type": "image/jpeg"}
FORM = {"Content-Type": "multipart/form-data; boundary=edge"}


def encoded(image: Image.Image, kind: str = "JPEG") -> bytes:
    file = io.BytesIO()
    image.save(file, kind, quality=95)
    return file.getvalue()


def form(
    body: bytes,
    disposition: str = 'form-data; name="file"; filename="a"',
    fields: Mapping[str, str] | None = None,
) -> bytes:
    """A form with a file, and texts beside it."""
    parts = [(disposition, body)]
    parts += [(f'form-data; name="{name}"', text.encode()) for name, text in (fields or {}).items()]
    edges = b"".join(
        f"--edge\r\nContent-Disposition: {head}\r\n\r\n".encode() + content + b"\r\n"
        for head, content in parts
    )
    return edges + b"--edge--\r\n"


def post(server, body=None, headers=JPEG) -> tuple[int, str | None]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.request("POST", "/count", body or encoded(frame(1)), headers)
    answer = connection.getresponse()
    return answer.status, answer.getheader("Retry-After")


def get(server, path: str) -> int:
    """The status of a GET."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.request("GET", path)
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer.status


def exchange(server, head: str, body: bytes = b"") -> bytes:
    """Sends these bytes; returns what the server has answered when it closes the connection."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(head.replace("\n", "\r\n").encode() + b"\r\n\r\n" + body)
        return b"".join(iter(lambda: connection.recv(65536), b""))
