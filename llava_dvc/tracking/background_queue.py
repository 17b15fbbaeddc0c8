"""Runs calls to the tracker in order on a background thread.

When the tracker is lost, the queue drops its calls and prints one line. The stage goes on.
"""

import sys
import time
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import Thread
from typing import NamedTuple

from llava_dvc.errors import UserError
from llava_dvc.masking import masked
from llava_dvc.tracking.mlflow_store import failure_reason, is_reachable, tracking_uri

ATTEMPTS = 3
CALL_TIMEOUT = 0.3  # seconds without a finished task before `close` checks the tracker
UPLOAD_TIMEOUT = 2.0  # the same during an upload
HEALTH_CHECK_TIMEOUT = 0.5  # seconds that the tracker has to answer that check
HANG_TIMEOUT = 120.0  # seconds that a call may take, unless it is an upload, if the tracker answers


class Task(NamedTuple):
    """One call in the queue."""

    call: Callable[[], None]
    is_upload: bool = False
    """It may take minutes."""
    is_local: bool = False
    """It does not use the tracker."""


class BackgroundQueue:
    """A queue and its worker thread. No method raises an error of a task."""

    def __init__(self, on_idle: Callable[[], None], idle_timeout: Callable[[], float]) -> None:
        """The worker calls `on_idle` when the queue is empty for `idle_timeout()` seconds."""
        self.is_lost = False
        self._on_idle, self._idle_timeout = on_idle, idle_timeout
        self._is_uploading = False
        self._finished_tasks = 0
        self._tasks: SimpleQueue[Task | None] = SimpleQueue()
        # A daemon thread, because a tracker that hangs must not keep the process alive.
        self._worker = Thread(target=self._run_tasks, daemon=True)
        self._worker.start()

    def submit(self, call: Callable[[], None], is_upload: bool = False) -> None:
        """Queues a call to the tracker. `is_upload` marks a call that may take minutes."""
        if not self.is_lost:
            self._tasks.put(Task(call, is_upload))

    def submit_local(self, call: Callable[[], None]) -> None:
        """Queues a call that does not use the tracker. It also runs after the tracker is lost."""
        self._tasks.put(Task(call, is_local=True))

    def close(self) -> None:
        """Waits for the queued tasks as long as the tracker answers, then runs the local ones."""
        self._tasks.put(None)
        finished, since = self._finished_tasks, time.monotonic()
        checked = since
        while self._worker.is_alive():
            self._worker.join(0.05)
            if self._finished_tasks != finished:
                finished, since = self._finished_tasks, time.monotonic()
                checked = since
            elif time.monotonic() - checked > self._timeout():
                if not self._is_answering(since) and self._finished_tasks == finished:
                    self._mark_lost("it does not answer")
                    break
                checked = time.monotonic()
        self._run_remaining_local_tasks()

    def _is_answering(self, since: float) -> bool:
        """`since` is the time at which the present task can have begun."""
        is_hanging = time.monotonic() - since > HANG_TIMEOUT and not self._is_uploading
        return not is_hanging and is_reachable(HEALTH_CHECK_TIMEOUT)

    def _timeout(self) -> float:
        return UPLOAD_TIMEOUT if self._is_uploading else CALL_TIMEOUT

    def _run_remaining_local_tasks(self) -> None:
        """Runs the local tasks that are queued behind a call that hangs."""
        with suppress(Empty):
            while True:
                task = self._tasks.get_nowait()
                if task and task.is_local:
                    task.call()

    def _run_tasks(self) -> None:
        while True:
            try:
                task = self._tasks.get(timeout=None if self.is_lost else self._idle_timeout())
            except Empty:
                task = Task(self._on_idle)
            if task is None:
                return
            self._is_uploading = task.is_upload
            task.call() if task.is_local else self._call_with_retries(task.call)
            self._finished_tasks, self._is_uploading = self._finished_tasks + 1, False

    def _call_with_retries(self, call: Callable[[], None]) -> None:
        reason = ""
        for attempt in range(ATTEMPTS):
            if self.is_lost:
                return
            try:
                call()
                return
            except UserError as error:  # a further attempt would not help
                self._mark_lost(str(error).removeprefix(f"{masked(tracking_uri())}: "))
                return
            except Exception as error:  # MLflow and its HTTP client raise errors of many types
                reason = failure_reason(error)
                self._is_uploading = False
                time.sleep(0.2 * attempt)
        self._mark_lost(reason)

    def _mark_lost(self, reason: str) -> None:
        if not self.is_lost:
            self.is_lost = True
            line = f"tracking: {tracking_uri()}: logging stopped ({reason})"
            sys.stderr.write(masked(f"{line}; the stage continues without it\n"))
