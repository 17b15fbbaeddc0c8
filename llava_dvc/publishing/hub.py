"""Uploads files to the Hub that HF_ENDPOINT names, as one commit and one tag.

A second upload of the same files makes no commit.
"""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants
from huggingface_hub.hf_api import RepoFile

from llava_dvc.errors import UserError
from llava_dvc.files import file_digest
from llava_dvc.masking import masked
from llava_dvc.publishing.hub_errors import (
    RepoBusyError,
    errors_as_user_errors,
    not_found_ignored,
    with_retries,
)

HUGGING_FACE = "https://huggingface.co"
GITATTRIBUTES = ".gitattributes"  # written by the Hub itself


@dataclass(frozen=True)
class UploadResult:
    endpoint: str
    repo: str
    commit: str
    """The commit that holds the files."""
    tag: str
    new: bool
    """Whether this upload made the commit; False when the repository had all files already."""


def upload(
    files: Mapping[str, Path], repo: str, *, private: bool, tag: str, message: str
) -> UploadResult:
    """Makes `repo` hold exactly `files`, given by their path in it, and tags the commit.

    The first line of `message` is the commit's title, the rest its description.

    Raises UserError, one line without the token, when the Hub refuses or cannot be reached.
    """
    token = _read_token()
    if constants.ENDPOINT != HUGGING_FACE:
        # Another server may not speak the Xet protocol, and the client would retry it for minutes.
        constants.HF_HUB_DISABLE_XET = True
    api = HfApi(token=token)
    with errors_as_user_errors(repo, token):
        with_retries(lambda: _create_repo(api, repo, private=private))
        before = with_retries(lambda: _latest_commit(api, repo, private=private))
        commit = with_retries(lambda: _commit_files(api, repo, files, message, private=private))
        with_retries(lambda: api.create_tag(repo, tag=tag, revision=commit, exist_ok=True))
    return UploadResult(masked(api.endpoint), repo, commit, tag, new=commit != before)


def _read_token() -> str:
    """Returns HF_TOKEN. Raises UserError when it is not set or cannot be a token."""
    token = os.environ.get("HF_TOKEN", "").strip()
    if not token:
        raise UserError(
            "HF_TOKEN: is not set. Make a token with write access at "
            f"{masked(constants.ENDPOINT)}/settings/tokens and put it into the environment."
        )
    if not token.isascii() or not token.isprintable() or " " in token:
        raise UserError("HF_TOKEN: contains a character that tokens never contain. Copy it again.")
    return token


def _create_repo(api: HfApi, repo: str, *, private: bool) -> None:
    """Creates `repo` if there is none."""
    try:
        api.create_repo(repo, private=private, exist_ok=True)
    except KeyError:
        # The client reads an address from every 409, but only "exists already" has one.
        if not api.repo_exists(repo):
            raise RepoBusyError from None


def _latest_commit(api: HfApi, repo: str, *, private: bool) -> str | None:
    """Returns the latest commit of `repo`, or None without one.

    Raises UserError when `repo` is public and must be private.
    """
    with not_found_ignored():
        info = api.model_info(repo, revision="main")
        if private and info.private is False:
            raise UserError(
                f"publish.repo: {repo} is public, but publish.private is true. Make it private in "
                "its settings on the Hub, or set publish.private to false."
            )
        return info.sha
    return None


def _commit_files(
    api: HfApi, repo: str, files: Mapping[str, Path], message: str, *, private: bool
) -> str:
    """Returns the commit that holds exactly `files`, and makes it if the latest one does not.

    The comparison also finds a commit of an earlier attempt whose response was lost.
    """
    latest, remote = _latest_commit(api, repo, private=private), _remote_files(api, repo)
    changed = [name for name, path in files.items() if not _is_same(remote.get(name), path)]
    deleted = [name for name in remote if name not in files]
    if latest and not changed and not deleted:
        return latest
    operations: list[Any] = [
        *(CommitOperationAdd(name, files[name]) for name in changed or files),
        *(CommitOperationDelete(name) for name in deleted),
    ]
    # With the parent named, a commit whose response was lost cannot land a second time.
    title, _, description = message.partition("\n")
    made = api.create_commit(
        repo,
        operations,
        commit_message=title,
        commit_description=description.strip(),
        parent_commit=latest,
    )
    return str(made.oid)


def _remote_files(api: HfApi, repo: str) -> dict[str, RepoFile]:
    """Returns every file of `repo` by its path, without the Hub's own."""
    with not_found_ignored():
        tree = list(api.list_repo_tree(repo, recursive=True))
        files = [entry for entry in tree if isinstance(entry, RepoFile)]
        return {file.path: file for file in files if file.path != GITATTRIBUTES}
    return {}


def _is_same(remote: RepoFile | None, path: Path) -> bool:
    """Whether a file of the repository has the bytes of `path`."""
    if remote is None:
        return False
    if remote.lfs:
        return remote.lfs.sha256 == file_digest(path, "sha256")
    return remote.blob_id == _git_blob_id(path)


def _git_blob_id(path: Path) -> str:
    """Returns the id that git gives to the content of `path`."""
    digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()
