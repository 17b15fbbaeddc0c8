"""Posts the events of alerts to a webhook, signed and in order."""

import hashlib
import hmac
import json
import logging
import os
import queue
import threading
import time
import uuid
from collections.abc import Mapping
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception,
    sleep_using_event,
    stop_after_delay,
    wait_exponential,
)

from llava_dvc.errors import UserError
from llava_dvc.serving.watch.alerts import AlertEvent

SECRET = "LLAVA_DVC_WEBHOOK_SECRET"
SIGNATURE = "X-Llava-Dvc-Signature"
TIMEOUT = 10.0
FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0
PATIENCE = 3600.0
"""Seconds. Then an event is given up, and the next one is tried."""
MAX_WAITING = 1000
"""Events."""
CLOSE_SECONDS = 5.0
"""To deliver what waits when the command ends."""
RETRIED = {408, 425, 429, 500, 502, 503, 504}

logger = logging.getLogger(__name__)


def sign(secret: str, body: bytes) -> str:
    """Returns the value of the header: HMAC-SHA256 of the body, whose `sent` keeps an old one from
    being sent again.
    """
    return "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


class Webhook:
    """A thread that posts events, the oldest first, each until it is accepted."""

    def __init__(self, url: str, environment: Mapping[str, str] = os.environ) -> None:
        """Raises UserError for a URL that is none, or if the environment has no secret."""
        self._host = _host(url)
        self._url, self._secret = url, environment.get(SECRET, "")
        if not self._secret:
            raise UserError(
                f"{SECRET}: is not set, and --webhook signs with it. Set it to a random text that "
                "the receiver knows too."
            )
        self._opener = build_opener(_NoRedirect())
        self._events: queue.Queue[dict[str, Any] | None] = queue.Queue(MAX_WAITING)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._post_all, name="webhook", daemon=True)
        self._thread.start()

    def send(self, event: AlertEvent) -> None:
        """Posts the event soon. Does not wait."""
        try:
            self._events.put_nowait({"id": str(uuid.uuid4())} | event.content())
        except queue.Full:
            logger.error("webhook %s: %d events wait; one is lost", self._host, MAX_WAITING)

    def close(self) -> None:
        """Waits CLOSE_SECONDS for what is left."""
        self._closing.set()
        try:
            self._events.put_nowait(None)
        except queue.Full:
            return
        self._thread.join(CLOSE_SECONDS)
        if left := self._events.qsize():
            logger.error("webhook %s: %d events are lost", self._host, left)

    def _post_all(self) -> None:
        while (event := self._events.get()) is not None:
            try:
                self._retrying()(self._post, event)
            except Exception as error:  # the thread goes on
                reason = _failure_reason(error)
                logger.error("webhook %s: gave up on %s: %s", self._host, event["alert"], reason)

    def _retrying(self) -> Retrying:
        return Retrying(
            retry=retry_if_exception(_may_pass),
            wait=wait_exponential(FIRST_WAIT, LONGEST_WAIT),
            stop=lambda state: self._closing.is_set() or stop_after_delay(PATIENCE)(state),
            sleep=sleep_using_event(self._closing),
            before_sleep=self._log_first,
            reraise=True,
        )

    def _log_first(self, state: RetryCallState) -> None:
        if state.attempt_number == 1 and state.outcome:
            reason = _failure_reason(state.outcome.exception())
            logger.warning("webhook %s: %s; it is tried again", self._host, reason)

    def _post(self, event: dict[str, Any]) -> None:
        body = json.dumps(event | {"sent": round(time.time())}).encode()
        headers = {"Content-Type": "application/json", SIGNATURE: sign(self._secret, body)}
        request = Request(self._url, body, headers, method="POST")
        with self._opener.open(request, timeout=TIMEOUT) as answer:
            answer.read(1)


class _NoRedirect(HTTPRedirectHandler):
    """A redirected POST becomes a GET, and the event would be lost."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _host(url: str) -> str:
    """Returns the host for messages: the path of a webhook is often a secret."""
    try:
        parts = urlsplit(url)
        host = parts.hostname if parts.scheme in ("http", "https") and parts.port != 0 else None
    except ValueError:
        host = None
    if not host:
        raise UserError(
            "--webhook: is not an address. Write http://HOST/PATH or https://HOST/PATH."
        )
    return host


def _may_pass(error: BaseException) -> bool:
    """Says if another attempt may help."""
    if isinstance(error, HTTPError):
        return error.code in RETRIED
    return isinstance(error, OSError | HTTPException)


def _failure_reason(error: BaseException | None) -> str:
    """Returns the reason in words that hold no address."""
    if isinstance(error, HTTPError):
        return f"answers {error.code}"
    cause = getattr(error, "reason", error)
    return getattr(cause, "strerror", None) or type(cause).__name__
