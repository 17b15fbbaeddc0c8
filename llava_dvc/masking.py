"""Takes passwords and tokens out of what is shown or logged.

Two things are masked: the secret values in the environment, wherever they stand, and what looks
like a login in an address.
"""

import base64
import logging
import os
import re
import sys
import traceback
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any, TextIO, cast
from urllib.parse import quote, quote_plus, unquote

MASK = "***"
MIN_LENGTH = 4
"""A shorter value is part of too many words. In an address it is masked all the same."""

_SECRET_NAME = re.compile(
    r"(?:TOKEN|PASSWORD|PASSWD|SECRET|KEY)S?(?:_ID)?$|(?:^|_)(?:PASS|PASSPHRASE|PW|PAT)$",
    re.IGNORECASE,
)
_ORDINARY_VALUES = {"true", "false", "none", "null"}
_ADDRESS = re.compile(r"(?:[\w+.-]+://)?(?P<user>[^\s/:@]*)(?::(?!//|\d+/)(?P<password>.*))?@[^@]*")
_SECRET_PARAMETER = (
    r"(?:[\w-]*(?:token|password|passwd|secret|signature|credential)"
    r"|(?:api|access|account|private|shared)?[_-]?key|pass|pw|sig)"
)
_PARAMETER = re.compile(
    rf"((?:[?&;]{_SECRET_PARAMETER}|(?<![\w-])(?:password|passwd|token))=)[^&;\s\"'<>)]+",
    re.IGNORECASE,
)
# A password can hold "/". In http://host:5000/a@b there is a port.
_LOGIN = re.compile(
    r"(?<=://)(?:[^/\s]+@|[^\s/@:]+:(?!\d+/)\S*@)"
    r"|(?<![\w/:.@-])[\w.+%-]+:(?!//)[^\s@:]+@(?=[\w\[])"
)


def masked(text: str) -> str:
    """`text` without secrets of the environment and without logins in addresses."""
    for secret in environment_secrets():
        text = text.replace(secret, MASK)
    return _PARAMETER.sub(rf"\1{MASK}", without_logins(text))


def without_logins(text: str) -> str:
    """`text` without the user names and passwords in its addresses."""
    return _LOGIN.sub("", text)


def environment_secrets() -> tuple[str, ...]:
    """All secret values in the environment as they can stand in a text, longest first."""
    return _secrets_of(tuple(os.environ.items()))


def hide_secrets() -> None:
    """Masks all that this process logs or writes to standard error from now on.

    That includes warnings and tracebacks.
    """
    logging.setLogRecordFactory(_masked_record)  # sees the records of all libraries
    if sys.stderr is not None and not isinstance(sys.stderr, MaskedStream):
        sys.stderr = cast(TextIO, MaskedStream(sys.stderr))


class MaskedStream:
    """A text stream that masks what is written to it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(masked(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@lru_cache(maxsize=1)
def _secrets_of(environment: tuple[tuple[str, str], ...]) -> tuple[str, ...]:
    secrets = {
        written
        for name, value in environment
        for secret in _secrets_in(name, value.strip())
        if len(secret) >= MIN_LENGTH and secret.lower() not in _ORDINARY_VALUES
        for written in _spellings(secret)
    }
    return tuple(sorted(secrets, key=lambda secret: (-len(secret), secret)))


def _secrets_in(name: str, value: str) -> Iterator[str]:
    """The secrets in one variable: its value, or the login and the parameters of an address."""
    if _SECRET_NAME.search(name):
        yield value
    if address := _ADDRESS.fullmatch(value):
        user, password = address["user"], address["password"]
        if password:
            yield password
            yield from re.split(r"[/?#@:\s]+", password)  # an error about the address shows a part
            yield base64.b64encode(unquote(f"{user}:{password}").encode()).decode()  # HTTP's form
        elif "://" in value:  # a token in place of a user
            yield user
    for parameter in re.finditer(rf"[?&;]{_SECRET_PARAMETER}=([^&;#]+)", value, re.IGNORECASE):
        yield parameter[1]


def _spellings(secret: str) -> set[str]:
    """The secret as it is, and as addresses, Python, and our lines of one space write it."""
    plain = {secret, unquote(secret)}
    quoted = {
        write(one, safe) for one in plain for write in (quote, quote_plus) for safe in ("", "/")
    }
    return plain | quoted | {repr(one)[1:-1] for one in plain} | {" ".join(secret.split())}


def _masked_record(*arguments: Any, **more: Any) -> logging.LogRecord:
    record = logging.LogRecord(*arguments, **more)
    try:
        text = record.getMessage()
    except Exception:  # a wrong format; logging would print the values
        text = f"{record.msg} {record.args}"
    record.msg, record.args = masked(text), None
    if record.exc_info and record.exc_info[0]:
        # Formatters take this text if it is there.
        record.exc_text = masked("".join(traceback.format_exception(*record.exc_info))).rstrip()
    return record
