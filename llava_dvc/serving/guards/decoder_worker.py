"""The program of one decoder process. It decodes frames until the service closes the connection.

The kernel ends the process when a frame takes too much time, whatever code runs at that moment.
Messages are bytes and JSON. The service does not unpickle what a decoder sends.
"""

import contextlib
import json
import os
import re
import resource
import signal
import sys
from collections.abc import Iterator
from io import BytesIO
from multiprocessing.connection import Connection
from typing import Any

from PIL import Image

from llava_dvc.data.images import IMAGE_FORMATS, ImageError, decode_image

CPU_SECONDS = 0.4
"""Of the processor, for the header, and again for the pixels. A 640x480 JPEG takes 0.005 s."""
CPU_SECONDS_PER_MEGAPIXEL = 0.08
"""A progressive JPEG takes 0.03 s per megapixel."""
HEADER_SECONDS = 1.5
"""Of the clock. Other programs on the machine can make a decoder slow."""
PIXEL_SECONDS = 3.0
"""Of the clock."""
MEMORY_BYTES = 2**30
"""25 megapixels in CMYK take half of it."""
MAX_SCANS = 100
"""A progressive JPEG usually has ten scans. libjpeg's own program writes at most 100."""

GO_ON = b"decode"
STOP = b"stop"

# 0xFF00 and the restart markers 0xFFD0 to 0xFFD7 are parts of a scan.
_JPEG_MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])", re.DOTALL)
_WITHOUT_LENGTH = {0x01, 0xD8}
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9


def main() -> None:
    """Serves the connection whose file number is the first argument."""
    for ignored in (signal.SIGINT, signal.SIGTERM):  # the service ends first, then this process
        signal.signal(ignored, signal.SIG_IGN)
    for limit in (signal.SIGPROF, signal.SIGALRM):
        signal.signal(limit, signal.SIG_DFL)
    with contextlib.suppress(ValueError, OSError):  # macOS does not know this limit
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    Image.init()  # loads the plugins now, outside the time limit of the first frame
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libtiff prints a line per broken tag
    connection = Connection(int(sys.argv[1]))
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            serve_frame(connection, connection.recv_bytes())


def serve_frame(connection: Connection, content: bytes) -> None:
    """Sends the number of pixels, then the RGB image if the service wants it."""
    try:
        with time_limit(CPU_SECONDS, HEADER_SECONDS):
            pixels = header_pixels(content)
        _send(connection, pixels=pixels)
        if connection.recv_bytes() != GO_ON:
            return
        seconds = CPU_SECONDS + CPU_SECONDS_PER_MEGAPIXEL * pixels / 1e6
        with time_limit(seconds, PIXEL_SECONDS):
            image = decode_image(content)
            data = image.tobytes()
    except ImageError as error:
        _send(connection, kind=error.kind, reason=str(error))
        return
    _send(connection, size=image.size)
    connection.send_bytes(data)


def _send(connection: Connection, **answer: Any) -> None:
    connection.send_bytes(json.dumps(answer).encode())


@contextlib.contextmanager
def time_limit(processor: float, clock: float) -> Iterator[None]:
    """Ends this process by a signal after that many seconds of the processor or of the clock."""
    signal.setitimer(signal.ITIMER_PROF, processor)
    signal.setitimer(signal.ITIMER_REAL, clock)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)


def header_pixels(content: bytes) -> int:
    """Returns the number of pixels that the header states; 0 if the header is unreadable.

    Raises ImageError for a JPEG of more than MAX_SCANS scans. Decodes nothing.
    """
    if content.startswith(b"\xff\xd8") and not has_few_scans(content):
        raise ImageError(
            "too large", f"has more than {MAX_SCANS} scans; save it as a baseline JPEG or a PNG"
        )
    try:
        with Image.open(BytesIO(content), formats=IMAGE_FORMATS) as image:
            return image.width * image.height
    except Exception:  # Pillow raises many types on broken bytes; decoding reports the reason
        return 0


def has_few_scans(jpeg: bytes) -> bool:
    """Whether the first image of a JPEG file has at most MAX_SCANS scans.

    Skips the segments before a scan: they can hold a preview, which has scans of its own.
    """
    scans = place = 0
    while found := _JPEG_MARKER.search(jpeg, place):
        marker, place = found[1][0], found.end()
        if marker == _END_OF_IMAGE:
            break
        if marker in _WITHOUT_LENGTH:
            continue
        scans += marker == _START_OF_SCAN
        if scans > MAX_SCANS:
            return False
        place += max(2, int.from_bytes(jpeg[place : place + 2], "big"))
    return True


if __name__ == "__main__":
    main()
