"""Requests to a service."""

import http.client
import io

from PIL import Image

from tests.conftest import frame

JPEG = {"Content-Type": "image/jpeg"}
FORM = {"Content-Type": "multipart/form-data; boundary=edge"}


def encoded(image: Image.Image, kind: str = "JPEG") -> bytes:
    file = io.BytesIO()
    image.save(file, kind, quality=95)
    return file.getvalue()


def form(body: bytes) -> bytes:
    head = b'--edge\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    return head + body + b"\r\n--edge--\r\n"


def post(server, body=None, headers=JPEG) -> tuple[int, str | None]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.request("POST", "/count", body or encoded(frame(1)), headers)
    answer = connection.getresponse()
    return answer.status, answer.getheader("Retry-After")
