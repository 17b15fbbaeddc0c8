"""A folder to the Hub that HF_ENDPOINT names: one commit and one tag, or neither when they are
there already. What the client does not try again by itself is tried again here.
"""

import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar
from urllib.parse import urlsplit

from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    constants,
    get_session,
)
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
from huggingface_hub.hf_api import RepoFile

from llava_dvc.errors import UserError
from llava_dvc.tracking.mlflow_store import masked

Result = TypeVar("Result")
# The HTTP library's own error, whichever library it is: that of a connection, too.
HTTPError: type[Exception] = next(
    base for base in HfHubHTTPError.__mro__ if base.__name__ == "HTTPError"
)

HOME = "https://huggingface.co"
KEPT = ".gitattributes"  # the Hub's own file
WAITS = (1.0, 2.0, 4.0, 8.0)  # seconds between tries
PATIENCE = 180.0  # seconds, after which nothing is tried again
TIMEOUT = 300.0  # seconds without a byte
TRANSIENT = {408, 409, 412, 425, 429, 500, 502, 503, 504}


class _Busy(Exception):
    """As if the answer had been 409."""

    response = SimpleNamespace(status_code=409, headers={})


@dataclass(frozen=True)
class Pushed:
    """Where a folder is now."""

    endpoint: str
    repo: str
    commit: str
    tag: str
    new: bool
    """Whether the commit was made now; false when all of it was there already."""


def upload(
    folder: Path, files: Mapping[str, Path], repo: str, *, private: bool, tag: str
) -> Pushed:
    """Make `repo` hold `files`, by path, and nothing else, and tag that.

    Raises UserError, one line that never shows the token, for whatever keeps it from that.
    """
    token = _token()
    if constants.ENDPOINT != HOME:
        # Only the Hub itself is known to speak Xet; others would be asked for it over and over.
        constants.HF_HUB_DISABLE_XET = True
    api = HfApi(token=token)
    with _one_line(repo, token):
        _patiently(lambda: _create(api, repo, private=private))
        before = _patiently(lambda: _head(api, repo, private=private))
        message = f"{folder.name} {tag}"
        commit = _patiently(lambda: _commit(api, repo, files, message, private=private))
        _patiently(lambda: api.create_tag(repo, tag=tag, revision=commit, exist_ok=True))
    return Pushed(masked(api.endpoint), repo, commit, tag, new=commit != before)


def _token() -> str:
    token = os.environ.get("HF_TOKEN", "").strip()
    if not token:
        raise UserError(
            "HF_TOKEN: is not set; make a token that may write at "
            f"{masked(constants.ENDPOINT)}/settings/tokens and put it into the environment"
        )
    if not token.isascii() or not token.isprintable() or " " in token:
        raise UserError("HF_TOKEN: holds a character that no token has; copy it again")
    return token


def _create(api: HfApi, repo: str, *, private: bool) -> None:
    try:
        api.create_repo(repo, private=private, exist_ok=True)
    except KeyError:  # the client looks for an address in a 409: there already, or another is busy
        if not api.repo_exists(repo):
            raise _Busy from None


def _head(api: HfApi, repo: str, *, private: bool) -> str | None:
    """The latest commit of `repo`, if it has one."""
    with _absent_is_none():
        info = api.model_info(repo, revision="main")
        if private and info.private is False:
            raise UserError(
                f"publish.repo: {repo} is there and public, and publish.private is true; make it "
                "private in its settings, or set publish.private to false"
            )
        return info.sha
    return None


def _commit(
    api: HfApi, repo: str, files: Mapping[str, Path], message: str, *, private: bool
) -> str:
    """The commit with `files`: the latest, when it has them already, as after a commit whose answer
    was lost; else a new one on top of it.
    """
    head, there = _head(api, repo, private=private), _listing(api, repo)
    changed = [n for n, path in files.items() if n not in there or not _same(there[n], path)]
    gone = [name for name in there if name not in files]
    if head and not changed and not gone:
        return head
    operations: list[Any] = [
        *(CommitOperationAdd(name, files[name]) for name in changed or files),
        *(CommitOperationDelete(name) for name in gone),
    ]
    # Naming the parent keeps a commit that was cut off and lands later from being doubled.
    made = api.create_commit(repo, operations, commit_message=message, parent_commit=head)
    return str(made.oid)


def _listing(api: HfApi, repo: str) -> dict[str, RepoFile]:
    """Every file of `repo` by its path."""
    with _absent_is_none():
        tree = list(api.list_repo_tree(repo, recursive=True))
        files = [entry for entry in tree if isinstance(entry, RepoFile)]
        return {file.path: file for file in files if file.path != KEPT}
    return {}


@contextmanager
def _absent_is_none() -> Iterator[None]:
    """A repository without a commit has no revision and no tree."""
    try:
        yield
    except HTTPError as error:
        if _status(error) != 404:
            raise


def _same(there: RepoFile, path: Path) -> bool:
    """Whether a file of the repository has the bytes of `path`."""
    return there.lfs.sha256 == _sha256(path) if there.lfs else there.blob_id == _blob(path)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _blob(path: Path) -> str:
    digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def _patiently(call: Callable[[], Result]) -> Result:
    """Try again what may pass, a few times, waiting as long as the server asks."""
    start = time.monotonic()
    for wait in WAITS:
        try:
            get_session().timeout = TIMEOUT
            return call()
        except (HTTPError, json.JSONDecodeError, _Busy) as error:
            seconds = max(wait, _asked_to_wait(error))
            if not _may_pass(error) or time.monotonic() - start + seconds > PATIENCE:
                raise
            sys.stderr.write(f"hub: {_reason(error)}; again in {seconds:g} s\n")
            time.sleep(seconds)
    return call()


def _may_pass(error: Exception) -> bool:
    """True too where there was no answer, or one in no language of the Hub's."""
    return _status(error) in TRANSIENT | {None}


def _asked_to_wait(error: Exception) -> float:
    """Seconds in the answer's Retry-After; 0 without one."""
    headers = getattr(getattr(error, "response", None), "headers", {})
    asked = str(headers.get("Retry-After", "")).strip()
    return float(asked) if asked.isdigit() else 0.0


def _status(error: Exception) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)


def _reason(error: Exception) -> str:
    status = _status(error)
    if isinstance(error, json.JSONDecodeError):
        return "the answer is not JSON"
    if status:
        return f"answer {status}"
    return " ".join(str(error).split()) or type(error).__name__


@contextmanager
def _one_line(repo: str, token: str) -> Iterator[None]:
    """Turns what the client raises into a UserError with the remedy, and without secrets."""
    try:
        yield
    except UserError:
        raise
    except (HTTPError, OSError, ValueError, KeyError, RuntimeError, _Busy) as error:
        cause = error.__cause__ if isinstance(error, RuntimeError) else None  # of an LFS upload
        line = _line(repo, cause if isinstance(cause, Exception) else error)
        secrets = [token, urlsplit(constants.ENDPOINT).password]
        for secret in filter(None, secrets):
            line = line.replace(secret, "***")
        raise UserError(line) from None


def _line(repo: str, error: Exception) -> str:
    endpoint, owner = masked(constants.ENDPOINT), repo.split("/")[0]
    later = "`llava-dvc push` goes on where this stopped"
    match _status(error):
        case 401:
            return (
                f"HF_TOKEN: {endpoint} does not accept it; make one that may write at "
                f"{endpoint}/settings/tokens"
            )
        case 403:
            return (
                f"publish.repo: the token in HF_TOKEN may not write to {repo} on {endpoint}; take "
                "one that may, or name a repository of your own"
            )
        case 404:
            return (
                f"publish.repo: {endpoint} has no {owner}, or no {repo}, for you; mend the name, "
                "or take a token that may see it"
            )
        case 409 | 412:
            return f"publish.repo: others are writing to {repo} on {endpoint}; {later}"
        case 429:
            return (
                f"HF_ENDPOINT: {endpoint} has had too many requests (wait "
                f"{_asked_to_wait(error):g} s); {later}"
            )
        case status if status and status >= 500:
            return f"HF_ENDPOINT: {endpoint} answers {status} again and again; {later}"
        case status if status:
            said = getattr(error, "server_message", None) or _reason(error)
            return f"publish.repo: {endpoint} refuses {repo}: {' '.join(str(said).split())}"
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE: is set, so nothing is uploaded; unset it"
    if isinstance(error, HTTPError | json.JSONDecodeError):
        return (
            f"HF_ENDPOINT: {endpoint} cannot be reached ({_reason(error)}); mend the network or "
            f"the address, then {later}"
        )
    return f"publish.repo: {repo} cannot be pushed to {endpoint}: {_reason(error)}"
