"""Requests that come one by one, counted together."""

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import NamedTuple

from PIL.Image import Image

from llava_dvc.serving.counter import Count

MOST_FRAMES = 64
"""Frames that may wait: at 8 a second the last one is answered after 8 seconds."""
MOST_PIXELS = 256_000_000
"""Of all frames that wait; each takes three bytes."""


class Busy(Exception):
    """Too much is waiting; ask again later."""


class Waiting(NamedTuple):
    image: Image
    answer: "Future[Count]"


class Batcher:
    """One thread that counts whatever waits, up to `size` frames at once.

    It does not wait for a batch to fill: while one is counted, the next one gathers.
    """

    def __init__(
        self,
        count: Callable[[Sequence[Image]], list[Count]],
        size: int,
        counted: Callable[[int], None] = lambda frames: None,
    ) -> None:
        """`counted` is told the size of every batch."""
        self.waiting = 0
        """Frames that have a place."""
        self._pixels = 0
        self._lock = threading.Lock()
        self._count, self._size, self._counted = count, size, counted
        self._queue: queue.SimpleQueue[Waiting | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="counting", daemon=True)
        self._thread.start()

    @contextmanager
    def place(self, pixels: int) -> Iterator[None]:
        """Room for a frame of so many pixels, to be had before it is decoded; raises Busy."""
        with self._lock:
            if self.waiting >= MOST_FRAMES or self._pixels + pixels > MOST_PIXELS:
                raise Busy
            self.waiting += 1
            self._pixels += pixels
        try:
            yield
        finally:
            with self._lock:
                self.waiting -= 1
                self._pixels -= pixels

    def count(self, image: Image) -> "Future[Count]":
        """The frame's answer, when its turn has come."""
        answer: Future[Count] = Future()
        self._queue.put(Waiting(image, answer))
        return answer

    def close(self) -> None:
        """Count what waits, then end the thread."""
        self._queue.put(None)
        self._thread.join()

    def _work(self) -> None:
        while batch := self._gather():
            wanted = [one for one in batch if one.answer.set_running_or_notify_cancel()]
            if wanted:
                self._answer(wanted)

    def _gather(self) -> list[Waiting]:
        """What waits, at least one; nothing once closed."""
        batch: list[Waiting] = []
        while len(batch) < self._size:
            try:
                one = self._queue.get(block=not batch)
            except queue.Empty:
                break
            if one is None:
                self._queue.put(None)  # for the next call
                break
            batch.append(one)
        return batch

    def _answer(self, batch: Sequence[Waiting]) -> None:
        try:
            counts = self._count([one.image for one in batch])
        except Exception as error:  # each request must hear of it, and the thread must live on
            for one in batch:
                one.answer.set_exception(error)
            return
        self._counted(len(batch))
        for one, count in zip(batch, counts, strict=True):
            one.answer.set_result(count)
