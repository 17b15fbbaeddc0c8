"""Counts frames of separate requests in batches."""

import queue
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import NamedTuple

from llava_dvc.model.encoder import EncodedFrame
from llava_dvc.serving.counter import Count

MAX_QUEUED_FRAMES = 64
"""At 8 frames a second the last one is answered after 8 seconds."""
MAX_QUEUED_PIXELS = 256_000_000
"""Of all queued frames together. A pixel takes three bytes of memory."""
SWITCH_SECONDS = 0.0005
"""For so long a thread keeps Python's lock while others wait for it; 5 ms in other processes. The
thread that counts waits for it many times in a batch, while others decode: 60 cameras were counted
50.8 times a second with 5 ms, and 59.8 times with this.
"""


class QueueFull(Exception):
    """There is no place in the queue; the client should retry later."""


class QueuedFrame(NamedTuple):
    frame: EncodedFrame
    answer: "Future[Count]"


class RequestBatcher:
    """A thread that counts the queued frames, up to `size` of them in one batch.

    A batch starts as soon as the previous one is done. It does not wait until it is full.
    """

    def __init__(
        self,
        count: Callable[[Sequence[EncodedFrame]], list[Count]],
        size: int,
        on_batch: Callable[[int], None] = lambda frames: None,
        gather: float = 0.0,
    ) -> None:
        """`on_batch` gets the number of frames of each batch. A batch waits `gather` seconds for
        each next frame, for those that come at the same time.
        """
        self.reserved = 0
        """Frames with a place in the queue."""
        self._pixels = 0
        self._lock = threading.Lock()
        self._count, self._size, self._on_batch = count, size, on_batch
        self._gather = gather
        sys.setswitchinterval(SWITCH_SECONDS)
        self._queue: queue.SimpleQueue[QueuedFrame | None] = queue.SimpleQueue()
        self._thread = threading.Thread(
            target=self._count_until_closed, name="counting", daemon=True
        )
        self._thread.start()

    @contextmanager
    def reserve(self) -> Iterator[Callable[[int], None]]:
        """Reserves a place for a frame; yields the function that adds its pixels to the place.

        Both raise QueueFull. Call the function before the frame is decoded.
        """
        held, released = 0, False

        def hold_pixels(pixels: int) -> None:
            nonlocal held
            with self._lock:
                # A decoder can be so late that the place is released.
                if released or self._pixels + pixels > MAX_QUEUED_PIXELS:
                    raise QueueFull
                held += pixels
                self._pixels += pixels

        with self._lock:
            if self.reserved >= MAX_QUEUED_FRAMES:
                raise QueueFull
            self.reserved += 1
        try:
            yield hold_pixels
        finally:
            with self._lock:
                self.reserved -= 1
                self._pixels -= held
                released = True

    def enqueue(self, frame: EncodedFrame) -> "Future[Count]":
        """Adds a frame to the queue; returns the future of its count."""
        answer: Future[Count] = Future()
        self._queue.put(QueuedFrame(frame, answer))
        return answer

    def close(self) -> None:
        """Counts the queued frames, then ends the thread."""
        self._queue.put(None)
        self._thread.join()

    def _count_until_closed(self) -> None:
        while batch := self._next_batch():
            active = [queued for queued in batch if queued.answer.set_running_or_notify_cancel()]
            if active:
                self._count_batch(active)

    def _next_batch(self) -> list[QueuedFrame]:
        """Waits for a frame; returns it with the frames queued behind it. Empty after `close`."""
        batch: list[QueuedFrame] = []
        while len(batch) < self._size:
            try:
                frame = self._queue.get(timeout=self._gather if batch else None)
            except queue.Empty:
                break
            if frame is None:
                self._queue.put(None)  # the next call must see it too
                break
            batch.append(frame)
        return batch

    def _count_batch(self, batch: Sequence[QueuedFrame]) -> None:
        try:
            counts = self._count([queued.frame for queued in batch])
        except Exception as error:  # the thread goes on
            if len(batch) == 1:
                batch[0].answer.set_exception(error)
                return
            for queued in batch:  # one of them fails; the others must not
                self._count_batch([queued])
            return
        self._on_batch(len(batch))
        for queued, count in zip(batch, counts, strict=True):
            queued.answer.set_result(count)
