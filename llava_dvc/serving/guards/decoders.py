"""Decodes frames in processes of their own, so that no frame can hold or end the service."""

import json
import queue
import signal
import subprocess
import sys
from collections.abc import Callable
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

from PIL import Image

from llava_dvc.data.images import ImageError
from llava_dvc.serving.guards import decoder_worker

LIMIT_SIGNALS = {-signal.SIGPROF, -signal.SIGALRM}


class DecoderPool:
    """Decoder processes, started when they are needed. Each decodes one frame at a time."""

    def __init__(self, size: int) -> None:
        self._decoders = [Decoder() for _ in range(size)]
        self._decoders[-1].start()
        self._idle: queue.LifoQueue[Decoder] = queue.LifoQueue()
        for decoder in self._decoders:
            self._idle.put(decoder)

    def decode(self, content: bytes, accept: Callable[[int], None]) -> Image.Image:
        """Returns the RGB image in `content`, upright.

        Calls `accept` with the number of pixels before they are decoded; it may raise. Raises
        ImageError.
        """
        decoder = self._idle.get()
        try:
            return decoder.decode(content, accept)
        finally:
            self._idle.put(decoder)

    def close(self) -> None:
        """Ends the processes. No frame may be in work."""
        for decoder in self._decoders:
            decoder.stop()


class Decoder:
    """One decoder process. A process that ended is replaced by a new one."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection

    def start(self) -> None:
        """Starts the process, and does not wait until it is ready."""
        self._connection, other = Pipe()
        with other:
            # -P: a file in the working folder must not replace a module of Python.
            command = [sys.executable, "-P", "-m", decoder_worker.__name__, str(other.fileno())]
            # In a group of its own, it does not get the Ctrl-C of the terminal.
            self._process = subprocess.Popen(command, pass_fds=[other.fileno()], process_group=0)

    def stop(self) -> int:
        """Closes the connection; returns the exit status of the process."""
        if self._process is None:
            return 0
        self._connection.close()
        status = self._process.wait()
        self._process = None
        return status

    def decode(self, content: bytes, accept: Callable[[int], None]) -> Image.Image:
        """As DecoderPool.decode."""
        if self._process is None:
            self.start()
        try:
            return self._converse(content, accept)
        except (EOFError, BrokenPipeError, ConnectionResetError):
            status = self.stop()
            self.start()
            raise _death(status) from None

    def _converse(self, content: bytes, accept: Callable[[int], None]) -> Image.Image:
        self._connection.send_bytes(content)
        pixels = self._receive()["pixels"]
        try:
            accept(pixels)
        except BaseException:
            self._connection.send_bytes(decoder_worker.STOP)
            raise
        self._connection.send_bytes(decoder_worker.GO_ON)
        width, height = self._receive()["size"]
        return Image.frombytes("RGB", (width, height), self._connection.recv_bytes())

    def _receive(self) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self._connection.recv_bytes())
        if "reason" in answer:
            raise ImageError(answer["kind"], answer["reason"])
        return answer


def _death(status: int) -> Exception:
    """The error for a frame whose decoder ended with this exit status."""
    if status in LIMIT_SIGNALS:
        reason = "takes too much time to decode; save it as a baseline JPEG or a PNG"
        return ImageError("too slow", reason)
    if status < 0:
        name = signal.Signals(-status).name
        return ImageError("broken", f"cannot be decoded (the decoder ended with {name})")
    return RuntimeError(f"a decoder process ended with exit status {status}")
