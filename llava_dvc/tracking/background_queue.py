"""Calls to a tracker, one after the other in the background. A tracker that is lost costs its calls
and a line, never the work.
"""

import sys
import time
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import Thread
from typing import NamedTuple

from llava_dvc.tracking.mlflow_store import answers, masked, tracking_uri

TRIES = 3
QUIET = 0.3  # seconds without progress at a stage's end, after which the tracker is asked for an
ANSWER = 0.5  # answer within so many
UPLOAD = 2.0  # the same as QUIET while something large is under way


class Job(NamedTuple):
    """What is done next."""

    send: Callable[[], None]
    slow: bool = False
    """It may take minutes."""
    local: bool = False
    """It needs no tracker."""


class Sender:
    """A queue and the thread that works it off; nothing here ever raises into the stage."""

    def __init__(self, idle: Callable[[], None], due: Callable[[], float]) -> None:
        """`idle` is called whenever nothing came for `due` seconds."""
        self.lost = False
        self._idle, self._due = idle, due
        self._uploading = False
        self._done = 0
        self._waiting: SimpleQueue[Job | None] = SimpleQueue()
        # A daemon: a tracker that hangs must not keep the process from ending.
        self._worker = Thread(target=self._work, daemon=True)
        self._worker.start()

    def submit(self, send: Callable[[], None], slow: bool = False) -> None:
        """Have `send` call the tracker; `slow` is for what may take minutes."""
        if not self.lost:
            self._waiting.put(Job(send, slow))

    def do_here(self, do: Callable[[], None]) -> None:
        """Have `do` called in its turn; it needs no tracker, and is done when that is lost too."""
        self._waiting.put(Job(do, local=True))

    def close(self) -> None:
        """Wait for what is under way while the tracker does its part."""
        self._waiting.put(None)
        done, since = self._done, time.monotonic()
        while self._worker.is_alive():
            self._worker.join(0.05)
            quiet = time.monotonic() - since
            if self._done != done:
                done, since = self._done, time.monotonic()
            elif quiet > (UPLOAD if self._uploading else QUIET):
                if not answers(ANSWER) and self._done == done:
                    self._give_up("it does not answer")
                    break
                since = time.monotonic()
        self._finish_here()

    def _finish_here(self) -> None:
        """Do what waits behind a call that hangs, and needs no tracker."""
        with suppress(Empty):
            while True:
                job = self._waiting.get_nowait()
                if job and job.local:
                    job.send()

    def _work(self) -> None:
        while True:
            try:
                job = self._waiting.get(timeout=None if self.lost else self._due())
            except Empty:
                job = Job(self._idle)
            if job is None:
                return
            self._uploading = job.slow
            job.send() if job.local else self._try(job.send)
            self._done, self._uploading = self._done + 1, False

    def _try(self, send: Callable[[], None]) -> None:
        reason = ""
        for attempt in range(TRIES):
            if self.lost:
                return
            try:
                send()
                return
            except Exception as error:  # whatever a tracker raises must not reach the training
                reason = " ".join(str(error).split())[:200]
                self._uploading = False
                time.sleep(0.2 * attempt)
        self._give_up(reason)

    def _give_up(self, reason: str) -> None:
        if not self.lost:
            self.lost = True
            text = f"tracking: {tracking_uri()} is lost ({reason}); the stage goes on without\n"
            sys.stderr.write(masked(text))
