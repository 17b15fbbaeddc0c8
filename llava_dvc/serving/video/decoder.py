"""Decodes a video past its errors, and tells which frames show what the camera saw."""

import logging
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import av
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import PictureType, VideoFrame
from av.video.stream import VideoStream

MAX_READ_ERRORS = 100  # in a row: a file that ends too early gives one for each missing packet
NUMBERED = {"h264", "hevc"}  # decoders of codecs whose frames have numbers
NEEDS_OTHERS = {PictureType.P, PictureType.B}

DAMAGE = re.compile(
    r"frame num gap|could not find ref|requested reference|missing reference"
    r"|reference picture missing|error while decoding|error splitting|invalid nal unit size"
    r"|skipping invalid undecodable|outside the valid range",
    re.IGNORECASE,
)
"""Messages of libav: a packet is broken, or a frame needs another one that is lost. libav then
draws something similar instead, and says it nowhere else."""


class VideoDecoder:
    """Yields the frames of one stream, each with True if it is intact.

    A frame is not intact from an error or a lost packet until the next key frame, because each
    frame only stores what changes.
    """

    def __init__(self, container: InputContainer, stream: VideoStream) -> None:
        self.errors = 0
        self._container, self._stream = container, stream
        self._context = stream.codec_context
        self._context.copy_opaque = True  # a frame then knows the number of its packet
        # With several threads an error is reported at a later packet, and at another each time.
        self._context.thread_count = 1
        self._damage: tuple[int, int] | None = None
        """The first and the last broken packet since the last key frame."""

    def __iter__(self) -> Iterator[tuple[VideoFrame, bool]]:
        started = False
        with _libav_log() as log:
            try:
                for number, packet in enumerate(self._packets()):
                    frames = self._decode(packet, number)
                    # Before the first frame, a recording that starts anywhere misses references.
                    if started and any(DAMAGE.search(message) for *_, message in log):
                        self._add_error(number)
                    log.clear()
                    for frame in frames:
                        if not started and self._is_grey(frame):
                            self._add_error(number)
                        started = True
                        yield frame, self._is_intact(frame)
            finally:
                self._context.flush_buffers()

    def _packets(self) -> Iterator["Packet[Any]"]:
        """Yields all packets that can be read, then an empty one: the decoder gives what it has."""
        errors = 0
        while errors < MAX_READ_ERRORS:
            try:
                for packet in self._container.demux(self._stream):
                    if packet.size:
                        errors = 0
                        yield packet
                break
            except (av.FFmpegError, OSError):
                errors += 1
                self.errors += errors == 1
        end: Any = Packet()
        end.time_base = self._stream.time_base
        yield end

    def _decode(self, packet: "Packet[Any]", number: int) -> list[VideoFrame]:
        packet.opaque = number
        # These two number their frames, and report a loss. Elsewhere the container knows it best.
        if packet.is_corrupt and self._context.name not in NUMBERED:
            self._add_error(number)
        try:
            return self._context.decode(packet)
        except (av.FFmpegError, OSError):
            self._add_error(number)
            return []

    def _add_error(self, number: int) -> None:
        """Counts an error, unless it follows from one since the last key frame."""
        self.errors += self._damage is None
        start, end = self._damage or (number, number)
        self._damage = min(start, number), max(end, number)

    def _is_grey(self, first: VideoFrame) -> bool:
        """Says if the first frame is drawn on a grey picture. NUMBERED decoders wait for a key
        frame instead.
        """
        return first.pict_type in NEEDS_OTHERS and self._context.name not in NUMBERED

    def _is_intact(self, frame: VideoFrame) -> bool:
        number: Any = frame.opaque
        if frame.is_corrupt:
            self._add_error(number)
        if self._damage is None:
            return True
        if frame.key_frame and number > self._damage[1]:
            self._damage = None
            return True
        return bool(number < self._damage[0])


@contextmanager
def _libav_log() -> Iterator[list[Any]]:
    """Collects the messages of libav from this thread, each as its level, its source and its text.

    Several threads may do so at the same time.
    """
    _LISTENING.enter()
    try:
        with av.logging.Capture(local=True) as log:
            yield log
    finally:
        _LISTENING.leave()


class _LibavLevel:
    """The level of libav's messages, which all threads share. It is back when the last one leaves.

    H.264 reports lost references at level DEBUG. What no thread collects goes nowhere: libav also
    writes addresses with their passwords.
    """

    def __init__(self) -> None:
        logging.getLogger("libav").setLevel(logging.CRITICAL + 1)
        self._lock, self._threads = threading.Lock(), 0

    def enter(self) -> None:
        with self._lock:
            self._threads += 1
            av.logging.set_level(av.logging.DEBUG)
            av.logging.set_skip_repeated(False)

    def leave(self) -> None:
        with self._lock:
            self._threads -= 1
            if not self._threads:
                av.logging.set_level(None)
                av.logging.set_skip_repeated(True)


_LISTENING = _LibavLevel()
