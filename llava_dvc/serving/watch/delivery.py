"""Delivers the events of alerts to one receiver, in order, and again until they are accepted."""

import logging
import queue
import threading
import uuid
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception,
    sleep_using_event,
    stop_after_delay,
    wait_exponential,
)

from llava_dvc.serving.watch.alerts import AlertEvent

FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0
PATIENCE = 3600.0
"""Seconds. Then an event is given up, and the next one is tried."""
MAX_WAITING = 1000
"""Events."""
CLOSE_SECONDS = 5.0
"""To deliver what waits when the command ends."""

logger = logging.getLogger(__name__)


class Failures(NamedTuple):
    """What the errors of a receiver mean."""

    may_pass: Callable[[BaseException], bool]
    """Says if another attempt may help."""
    reason: Callable[[BaseException | None], str]
    """Returns the reason in words that hold no address."""


class EventReceiver(Protocol):
    """Gets the events of all alerts."""

    def send(self, event: AlertEvent) -> None:
        """Delivers the event soon. Does not wait."""

    def close(self) -> None:
        """Waits a little for what is left."""


class EventDelivery:
    """A thread that delivers events, the oldest first, each until it is accepted."""

    def __init__(
        self, name: str, deliver: Callable[[dict[str, Any]], None], failures: Failures
    ) -> None:
        """`deliver` raises what `failures` explains. `name` is for messages."""
        self._name, self._deliver, self._failures = name, deliver, failures
        self._events: queue.Queue[dict[str, Any] | None] = queue.Queue(MAX_WAITING)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._deliver_all, name=name, daemon=True)
        self._thread.start()

    def send(self, event: AlertEvent) -> None:
        """Delivers the event soon. Does not wait."""
        try:
            self._events.put_nowait({"id": str(uuid.uuid4())} | event.content())
        except queue.Full:
            logger.error("%s: %d events wait; one is lost", self._name, MAX_WAITING)

    def close(self) -> None:
        """Waits CLOSE_SECONDS for what is left."""
        self._closing.set()
        try:
            self._events.put_nowait(None)
        except queue.Full:
            return
        self._thread.join(CLOSE_SECONDS)
        if left := self._events.qsize():
            logger.error("%s: %d events are lost", self._name, left)

    def _deliver_all(self) -> None:
        while (event := self._events.get()) is not None:
            try:
                self._retrying()(self._deliver, event)
            except Exception as error:  # the thread goes on
                reason = self._failures.reason(error)
                logger.error("%s: gave up on %s: %s", self._name, event["alert"], reason)

    def _retrying(self) -> Retrying:
        return Retrying(
            retry=retry_if_exception(self._failures.may_pass),
            wait=wait_exponential(FIRST_WAIT, LONGEST_WAIT),
            stop=lambda state: self._closing.is_set() or stop_after_delay(PATIENCE)(state),
            sleep=sleep_using_event(self._closing),
            before_sleep=self._log_first,
            reraise=True,
        )

    def _log_first(self, state: RetryCallState) -> None:
        if state.attempt_number == 1 and state.outcome:
            reason = self._failures.reason(state.outcome.exception())
            logger.warning("%s: %s; it is tried again", self._name, reason)
