"""Label Studio's HTTP API: the few calls that `llava-dvc label` needs.

https://api.labelstud.io. Its SDK would bring OpenCV, NLTK and a code generator.
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import requests

from llava_dvc.errors import UserError
from llava_dvc.load_errors import first_line

KEY = "LABEL_STUDIO_API_KEY"
TIMEOUT = 60.0  # seconds


@dataclass(frozen=True)
class StudioProject:
    id: int
    config: str
    """Its labelling configuration."""


class StudioServer:
    """A Label Studio server. Every method raises UserError if the server does not do as asked."""

    def __init__(self, url: str, environment: Mapping[str, str] = os.environ) -> None:
        """Checks the address and the key in the environment."""
        self.url = url.rstrip("/")
        if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
            raise UserError(
                f"{url}: is no address of a server. Give one such as http://localhost:8080."
            )
        self._key = environment.get(KEY, "").strip()
        self._token = ""
        self._session = requests.Session()
        self._session.auth = self._sign  # without it, a login in ~/.netrc would replace ours
        if "release" not in self._get("/api/version"):
            raise self._other_kind()
        if not self._key:
            raise UserError(
                f"{KEY}: is not set. Set it to the token of your account in Label Studio: Account "
                "& Settings, Personal Access Token."
            )
        self._log_in()

    def find_project(self, title: str) -> StudioProject | None:
        """The project of this title."""
        found = self._get("/api/projects/", title=title, page_size=1000)["results"]
        same = [entry for entry in found if entry["title"] == title]
        if len(same) > 1:
            raise UserError(
                f"{self.url}: has {len(same)} projects named {title!r}. Rename all but one, or "
                "name another with --project."
            )
        return _project(same[0]) if same else None

    def create_project(self, title: str, config: str) -> StudioProject:
        return _project(self._post("/api/projects/", {"title": title, "label_config": config}))

    def configure(self, project: StudioProject, config: str) -> StudioProject:
        """Replaces the labelling configuration."""
        path = f"/api/projects/{project.id}/"
        return _project(self._call("PATCH", path, json={"label_config": config}))

    def export(self, project: StudioProject) -> list[dict[str, Any]]:
        """All tasks, annotated or not, in the form of the JSON export."""
        path = f"/api/projects/{project.id}/export"
        tasks = self._get(path, exportType="JSON", download_all_tasks="true")
        if not isinstance(tasks, list):
            raise self._other_kind()
        return tasks

    def upload(self, project: StudioProject, name: str, content: bytes) -> str:
        """Stores a picture; returns its address on the server."""
        path = f"/api/projects/{project.id}/import?commit_to_project=false"
        plain = re.sub(r"[^\w.-]", "_", name)
        (key,) = self._call("POST", path, files={"file": (plain, content)})["file_upload_ids"]
        return f"/data/{self._get(f'/api/import/file-upload/{key}')['file']}"

    def add_tasks(self, project: StudioProject, tasks: Sequence[Mapping[str, Any]]) -> None:
        self._post(f"/api/projects/{project.id}/import", list(tasks))

    def _get(self, path: str, **query: Any) -> Any:
        return self._call("GET", path, params=query)

    def _post(self, path: str, content: Any) -> Any:
        return self._call("POST", path, json=content)

    def _call(self, method: str, path: str, again: bool = True, **content: Any) -> Any:
        try:
            reply = self._session.request(
                method, self.url + path, timeout=TIMEOUT, allow_redirects=False, **content
            )
        except (requests.RequestException, ValueError) as error:
            raise UserError(
                f"{self.url}: no server answers ({_reason(error)}). Start Label Studio, or correct "
                "the address."
            ) from None
        if reply.status_code == 401 and again and self._is_personal:
            self._log_in()  # its access lasts five minutes
            return self._call(method, path, again=False, **content)
        self._require_success(reply)
        try:
            return reply.json()
        except ValueError:
            raise self._other_kind() from None

    def _require_success(self, reply: requests.Response) -> None:
        if reply.is_redirect:
            place = reply.headers["location"]
            raise UserError(f"{self.url}: leads to {place}. Give that server's own address.")
        if reply.status_code in (401, 403) and self._key:
            raise UserError(
                f"{KEY}: {self.url} refuses the key ({_detail(reply)}). Copy it again from Account "
                "& Settings there. An administrator may have turned off this kind of token."
            )
        if reply.status_code == 404 and reply.request.path_url.endswith("/api/version"):
            raise self._other_kind()
        if not reply.ok:
            raise UserError(
                f"{self.url}: answers {reply.status_code} to {reply.request.method} "
                f"{urlsplit(reply.url).path} ({_detail(reply)}). Correct it there and try again."
            )

    @property
    def _is_personal(self) -> bool:
        """A personal access token is a JWT. The older tokens have 40 hexadecimal digits."""
        return self._key.count(".") == 2

    def _log_in(self) -> None:
        token = f"Token {self._key}"
        if self._is_personal:
            self._token = ""
            path, content = "/api/token/refresh/", {"refresh": self._key}
            token = f"Bearer {self._call('POST', path, again=False, json=content)['access']}"
        self._token = token

    def _sign(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._token:
            request.headers["Authorization"] = self._token
        return request

    def _other_kind(self) -> UserError:
        return UserError(
            f"{self.url}: is no Label Studio server, or not at this path. Correct the address."
        )


def _project(entry: Mapping[str, Any]) -> StudioProject:
    return StudioProject(int(entry["id"]), str(entry["label_config"]))


def _detail(reply: requests.Response) -> str:
    """What the server says about an error, in one line."""
    try:
        content = reply.json()
        errors = content.get("validation_errors") or {}
        texts = [str(text) for part in errors.values() for text in part]
        return " ".join(" ".join(texts or [str(content["detail"])]).split())[:300]
    except (ValueError, AttributeError, KeyError, TypeError):
        return reply.reason or "without a reason"


def _reason(error: Exception) -> str:
    """The innermost cause, which says it in a few words."""
    while (inner := error.__cause__ or error.__context__) and isinstance(inner, Exception):
        error = inner
    return getattr(error, "strerror", None) or first_line(error)
