"""Posts the events of alerts to a webhook, signed."""

import hashlib
import hmac
import json
import os
import time
from collections.abc import Mapping
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from llava_dvc.errors import UserError
from llava_dvc.serving.watch.alerts import AlertEvent
from llava_dvc.serving.watch.delivery import EventDelivery, Failures

SECRET = "LLAVA_DVC_WEBHOOK_SECRET"
SIGNATURE = "X-Llava-Dvc-Signature"
TIMEOUT = 10.0
RETRIED = {408, 425, 429, 500, 502, 503, 504}


def sign(secret: str, body: bytes) -> str:
    """Returns the value of the header: HMAC-SHA256 of the body, whose `sent` keeps an old one from
    being sent again.
    """
    return "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


class Webhook:
    """Posts events as JSON."""

    def __init__(self, url: str, environment: Mapping[str, str] = os.environ) -> None:
        """Raises UserError for a URL that is none, or if the environment has no secret."""
        host = _host(url)
        self._url, self._secret = url, environment.get(SECRET, "")
        if not self._secret:
            raise UserError(
                f"{SECRET}: is not set, and --webhook signs with it. Set it to a random text that "
                "the receiver knows too."
            )
        self._opener = build_opener(_NoRedirect())
        failures = Failures(_may_pass, _failure_reason)
        self._delivery = EventDelivery(f"webhook {host}", self._post, failures)

    def send(self, event: AlertEvent) -> None:
        """Posts the event soon. Does not wait."""
        self._delivery.send(event)

    def close(self) -> None:
        """Waits a little for what is left."""
        self._delivery.close()

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
