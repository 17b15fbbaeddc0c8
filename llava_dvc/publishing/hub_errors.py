"""Errors of the Hub client: which ones are retried, and the line that a user reads."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar
from urllib.parse import urlsplit

from huggingface_hub import constants, get_session
from huggingface_hub.errors import OfflineModeIsEnabled
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception,
    stop_after_attempt,
    stop_before_delay,
    wait_exponential,
)

from llava_dvc.errors import UserError
from llava_dvc.load_errors import HTTPError
from llava_dvc.masking import masked

Result = TypeVar("Result")

ATTEMPTS = 5
FIRST_WAIT = 1.0  # seconds before the second attempt; doubles with every further one
PATIENCE = 180.0  # seconds; no new attempt starts later
TIMEOUT = 300.0  # seconds in which the server must send or take a byte
TRANSIENT = {408, 409, 412, 425, 429, 500, 502, 503, 504}

CONTINUE = "`llava-dvc push` continues where this upload stopped."
BUSY = f"publish.repo: somebody else is writing to {{repo}} on {{endpoint}}. {CONTINUE}"
STATUS_LINES = {
    401: "HF_TOKEN: {endpoint} does not accept it. Make a token with write access at "
    "{endpoint}/settings/tokens.",
    403: "publish.repo: the token in HF_TOKEN may not write to {repo} on {endpoint}. Use a token "
    "that may, or name a repository of your own.",
    404: "publish.repo: {endpoint} has no {owner}, or no {repo}, that you may see. Correct the "
    "name, or use a token that may see it.",
    409: BUSY,
    412: BUSY,
    429: f"HF_ENDPOINT: {{endpoint}} received too many requests (wait {{wait:g}} s). {CONTINUE}",
}
SERVER_ERROR = f"HF_ENDPOINT: {{endpoint}} still answers with status {{status}}. {CONTINUE}"
REFUSED = "publish.repo: {endpoint} refuses {repo}: {reason}"
UNREACHABLE = (
    "HF_ENDPOINT: {endpoint} cannot be reached ({reason}). Check the network and the address. "
    f"{CONTINUE}"
)
FAILED = "publish.repo: {repo} cannot be pushed to {endpoint}: {reason}"


class RepoBusyError(Exception):
    """Somebody else is creating the repository; treated as HTTP status 409."""


def with_retries(call: Callable[[], Result]) -> Result:
    """Returns what `call` returns, and repeats it after a transient error.

    Waits as long as the server's Retry-After says, but at least with exponential backoff. Raises
    the last error after ATTEMPTS attempts, or when the next one would start after PATIENCE.
    """
    retrying = Retrying(
        retry=retry_if_exception(_is_transient),
        wait=_seconds_to_wait,
        stop=stop_after_attempt(ATTEMPTS) | stop_before_delay(PATIENCE),
        before=_set_timeout,
        before_sleep=_log_retry,
        reraise=True,
    )
    return retrying(call)


@contextmanager
def errors_as_user_errors(repo: str, token: str) -> Iterator[None]:
    """Turns an error of the client into a UserError of one line, without token or password."""
    try:
        yield
    except UserError:
        raise
    except (HTTPError, OSError, ValueError, KeyError, RuntimeError, RepoBusyError) as error:
        # The client wraps the error of an LFS upload into a RuntimeError.
        cause = error.__cause__ if isinstance(error, RuntimeError) else None
        line = _error_line(repo, cause if isinstance(cause, Exception) else error)
        secrets = [token, urlsplit(constants.ENDPOINT).password]
        for secret in filter(None, secrets):
            line = line.replace(secret, "***")
        raise UserError(line) from None


@contextmanager
def not_found_ignored() -> Iterator[None]:
    """Suppresses HTTP status 404: a repository without a commit has no revision and no tree."""
    try:
        yield
    except HTTPError as error:
        if _http_status(error) != 404:
            raise


def _is_transient(error: BaseException) -> bool:
    """True also without a status: no response came, or it was not JSON."""
    if not isinstance(error, HTTPError | json.JSONDecodeError | RepoBusyError):
        return False
    return _http_status(error) in TRANSIENT | {None}


def _seconds_to_wait(state: RetryCallState) -> float:
    backoff = wait_exponential(multiplier=FIRST_WAIT)(state)
    return max(backoff, _retry_after(_last_error(state)))


def _set_timeout(_: RetryCallState) -> None:
    # Before every attempt, because the client makes a new session after a lost connection.
    get_session().timeout = TIMEOUT


def _log_retry(state: RetryCallState) -> None:
    reason = masked(_reason(_last_error(state)))
    sys.stderr.write(f"hub: {reason}; retry in {state.upcoming_sleep:g} s\n")


def _last_error(state: RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome else None


def _retry_after(error: BaseException | None) -> float:
    """Returns the seconds of the response's Retry-After, 0 without one."""
    headers = getattr(getattr(error, "response", None), "headers", {})
    value = str(headers.get("Retry-After", "")).strip()
    return float(value) if value.isdigit() else 0.0


def _http_status(error: BaseException | None) -> int | None:
    if isinstance(error, RepoBusyError):
        return 409
    return getattr(getattr(error, "response", None), "status_code", None)


def _reason(error: BaseException | None) -> str:
    status = _http_status(error)
    if isinstance(error, json.JSONDecodeError):
        return "the response is not JSON"
    if status:
        return f"HTTP status {status}"
    return " ".join(str(error).split()) or type(error).__name__


def _error_line(repo: str, error: Exception) -> str:
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE: is set, so nothing is uploaded. Unset it."
    status = _http_status(error)
    if status:
        template = SERVER_ERROR if status >= 500 else STATUS_LINES.get(status, REFUSED)
    else:
        unreachable = isinstance(error, HTTPError | json.JSONDecodeError)
        template = UNREACHABLE if unreachable else FAILED
    message = getattr(error, "server_message", None) or _reason(error)
    return template.format(
        endpoint=masked(constants.ENDPOINT),
        repo=repo,
        owner=repo.split("/")[0],
        status=status,
        wait=_retry_after(error),
        reason=" ".join(str(message).split()),
    )
