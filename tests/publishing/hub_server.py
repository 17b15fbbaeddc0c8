"""A small Hub for tests. It speaks the part of the Hugging Face Hub's protocol that uploads and
downloads need, over real HTTP. It keeps everything in memory. A test can order faults.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

LFS = (".safetensors", ".png", ".bin")
GITATTRIBUTES = b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"


def blob(content: bytes) -> str:
    """The id that git gives to a file with this content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@dataclass
class Commit:
    oid: str
    files: dict[str, bytes]
    message: str
    description: str = ""


@dataclass
class Repo:
    private: bool
    commits: list[Commit] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.add({".gitattributes": GITATTRIBUTES}, "initial commit")

    def add(self, files: dict[str, bytes], message: str, description: str = "") -> Commit:
        number = len(self.commits)
        named = json.dumps([number, {n: sha256(c) for n, c in sorted(files.items())}])
        self.commits.append(
            Commit(hashlib.sha1(named.encode()).hexdigest(), files, message, description)
        )
        return self.commits[-1]

    def at(self, revision: str) -> Commit | None:
        oid = self.tags.get(revision, revision)
        if revision == "main":
            return self.commits[-1]
        return next((commit for commit in self.commits if commit.oid == oid), None)


@dataclass
class Fault:
    """Hits the next `times` requests whose "METHOD /path" matches `pattern`."""

    pattern: str
    how: int | str
    """An HTTP status to answer with, or one of: `cut` closes the connection within the request,
    `lost` does what is asked and closes it before the response, `overtaken` first adds a commit of
    somebody else.
    """
    times: int
    headers: dict[str, str]
    body: bytes = b'{"error": "ordered by a test"}'


class Hub:
    """The state of the server. `tokens` holds the owners that each token may write for."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.objects: dict[str, bytes] = {}
        self.tokens: dict[str, set[str]] = {}
        self.owners = {"someone", "somebody-else"}
        self.faults: list[Fault] = []
        self.log: list[tuple[str, str, int | str]] = []
        self.lock = threading.RLock()
        self.url = ""

    def fail(
        self,
        pattern: str,
        how: int | str,
        times: int = 1,
        body: bytes | None = None,
        **headers: str,
    ) -> None:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.faults.append(Fault(pattern, how, times, named, body or Fault.body))

    def fault(self, request: str) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if fault.times and re.search(fault.pattern, request):
                    fault.times -= 1
                    return fault
        return None

    def calls(self, pattern: str) -> list[int | str]:
        """Returns the status, `cut` or `lost` of every matching request, in order."""
        return [end for method, path, end in self.log if re.search(pattern, f"{method} {path}")]


@contextmanager
def running() -> Iterator[Hub]:
    """Runs a Hub on a free port."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Refused(Exception):
    def __init__(self, status: int, message: str, **headers: str) -> None:
        super().__init__(message)
        self.status, self.headers = status, headers


Answer = tuple[int, dict[str, str], bytes]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_: Any) -> None:
        """Does nothing: Hub.log has the requests."""

    def do_GET(self) -> None:
        self.serve()

    do_HEAD = do_POST = do_PUT = do_GET

    def serve(self) -> None:
        path = unquote(urlsplit(self.path).path)
        length = int(self.headers.get("Content-Length") or 0)
        fault = self.hub.fault(f"{self.command} {path}")
        if fault and fault.how == "cut":
            self.rfile.read(length // 2)
            return self.cut(path, "cut")
        body = self.rfile.read(length)
        if fault and isinstance(fault.how, int):
            status, headers, content = fault.how, fault.headers, fault.body
        else:
            with self.hub.lock:
                if fault and fault.how == "overtaken":
                    for repo in self.hub.repos.values():
                        repo.add(repo.commits[-1].files | {"other.txt": b"other"}, "somebody else")
                status, headers, content = self.route(path, body)
        if fault and fault.how == "lost":
            return self.cut(path, "lost")
        self.hub.log.append((self.command, path, status))
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
        return None

    def cut(self, path: str, how: str) -> None:
        self.hub.log.append((self.command, path, how))
        self.close_connection = True
        self.connection.close()

    def route(self, path: str, body: bytes) -> Answer:
        path = path.replace("/api/spaces/", "/api/models/spaces/")  # a Space has its own names
        for (method, pattern), act in ROUTES.items():
            found = re.fullmatch(pattern, path)
            if found and self.command in method.split():
                try:
                    return act(self, body, **found.groupdict())
                except Refused as error:
                    return answer({"error": str(error)}, error.status, **error.headers)
        return answer({"error": "Not Found"}, 404)

    def who(self) -> set[str]:
        """The owners that the request's token may write for."""
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token not in self.hub.tokens:
            raise Refused(401, "Invalid username or password.")
        return self.hub.tokens[token]

    def repo(self, name: str, *, write: bool = False) -> Repo:
        repo = self.hub.repos.get(name)
        if repo is None or (repo.private and name.split("/")[-2] not in self.who()):
            raise Refused(404, "Repository not found", **{"X-Error-Code": "RepoNotFound"})
        if write and name.split("/")[-2] not in self.who():
            raise Refused(403, "You have no right to write here")
        return repo

    def commit(self, name: str, revision: str) -> Commit:
        found = self.repo(name).at(revision)
        if found is None:
            raise Refused(404, "Revision not found", **{"X-Error-Code": "RevisionNotFound"})
        return found


def answer(value: Any, status: int = 200, **headers: str) -> Answer:
    return status, {"Content-Type": "application/json", **headers}, json.dumps(value).encode()


def create(handler: Handler, body: bytes) -> Answer:
    asked = json.loads(body)
    owners, owner = handler.who(), asked["organization"]
    if owner not in handler.hub.owners:
        raise Refused(404, f"Organization {owner} not found")
    if owner not in owners:
        raise Refused(403, f"You don't have the rights to create a model under {owner}")
    kind = "spaces/" if asked.get("type") == "space" else ""
    name = f"{kind}{owner}/{asked['name']}"
    address = {"url": f"{handler.hub.url}/{name}", "name": name}
    if name in handler.hub.repos:
        return answer({"error": "You already created this model repo", **address}, 409)
    handler.hub.repos[name] = Repo(private=asked.get("visibility") == "private")
    return answer(address)


COLORS = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}
SDKS = {"gradio", "docker", "static"}


def validate_yaml(handler: Handler, body: bytes) -> Answer:
    handler.who()
    asked = json.loads(body)
    try:
        head = yaml.safe_load(asked["content"].split("---\n")[1])
    except yaml.YAMLError as error:
        return answer({"errors": [{"message": str(error)}], "warnings": []}, 400)
    if asked.get("repoType") == "space":
        wrong = [name for name in ("colorFrom", "colorTo") if head.get(name) not in COLORS]
        wrong += ["sdk"] * (head.get("sdk") not in SDKS)
        errors = [{"message": f'"{name}" must be one of the known ones'} for name in wrong]
        return answer({"errors": errors, "warnings": []}, 400 if errors else 200)
    base = head.get("base_model", "")
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", base):
        message = f'"base_model" with value "{base}" is not valid. Use a model id.'
        return answer({"errors": [{"message": message}], "warnings": []}, 400)
    return answer({"errors": [], "warnings": []})


def preupload(handler: Handler, body: bytes, name: str, revision: str) -> Answer:
    repo = handler.repo(name, write=True)
    there = repo.commits[-1].files
    files = []
    for file in json.loads(body)["files"]:
        path, lfs = file["path"], file["path"].endswith(LFS)
        known = there.get(path)
        oid = None if known is None else sha256(known) if lfs else blob(known)
        mode = "lfs" if lfs else "regular"
        files.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
    return answer({"files": files})


def lfs_batch(handler: Handler, body: bytes, name: str) -> Answer:
    handler.repo(name, write=True)
    objects = []
    for wanted in json.loads(body)["objects"]:
        actions = {
            "upload": {"href": f"{handler.hub.url}/lfs/{wanted['oid']}"},
            "verify": {"href": f"{handler.hub.url}/lfs/verify"},
        }
        known = wanted["oid"] in handler.hub.objects
        objects.append(wanted | ({} if known else {"actions": actions}))
    return answer({"transfer": "basic", "objects": objects})


def lfs_put(handler: Handler, body: bytes, oid: str) -> Answer:
    if sha256(body) != oid:
        raise Refused(400, "Not what was announced")
    handler.hub.objects[oid] = body
    return answer({})


def lfs_verify(handler: Handler, body: bytes) -> Answer:
    asked = json.loads(body)
    known = len(handler.hub.objects.get(asked["oid"], b"")) == asked["size"]
    return answer({}, 200 if known else 404)


def make_commit(handler: Handler, body: bytes, name: str, revision: str) -> Answer:
    repo = handler.repo(name, write=True)
    header, *operations = [json.loads(line) for line in body.splitlines()]
    parent = header["value"].get("parentCommit")
    if parent and parent != repo.commits[-1].oid:
        raise Refused(412, "A commit has happened since. Please refresh and try again.")
    files = dict(repo.commits[-1].files)
    for operation in operations:
        value = operation["value"]
        match operation["key"]:
            case "file":
                files[value["path"]] = base64.b64decode(value["content"])
            case "lfsFile":
                files[value["path"]] = handler.hub.objects[value["oid"]]
            case "deletedFile":
                del files[value["path"]]
    made = repo.add(files, header["value"]["summary"], header["value"]["description"])
    address = f"{handler.hub.url}/{name}/commit/{made.oid}"
    return answer({"commitUrl": address, "commitOid": made.oid, "success": True})


def make_tag(handler: Handler, body: bytes, name: str, revision: str) -> Answer:
    repo, tag = handler.repo(name, write=True), json.loads(body)["tag"]
    if tag in repo.tags:
        raise Refused(409, "This tag is there already")
    repo.tags[tag] = handler.commit(name, revision).oid
    return answer({})


def info(handler: Handler, _: bytes, name: str, revision: str | None) -> Answer:
    commit = handler.commit(name, revision or "main")
    siblings = [{"rfilename": path} for path in commit.files]
    private = handler.hub.repos[name].private
    return answer(
        {"id": name, "sha": commit.oid, "private": private, "siblings": siblings, "tags": []}
    )


def tree(handler: Handler, _: bytes, name: str, revision: str) -> Answer:
    entries = []
    for path, content in sorted(handler.commit(name, revision).files.items()):
        entry = {"type": "file", "path": path, "size": len(content), "oid": blob(content)}
        if path.endswith(LFS):
            size = len(content)
            entry |= {"lfs": {"oid": sha256(content), "size": size, "pointerSize": 134}}
        entries.append(entry)
    return answer(entries)


def resolve(handler: Handler, _: bytes, name: str, revision: str, path: str) -> Answer:
    commit = handler.commit(name, revision)
    if path not in commit.files:
        raise Refused(404, "Entry not found", **{"X-Error-Code": "EntryNotFound"})
    content = commit.files[path]
    etag = sha256(content) if path.endswith(LFS) else blob(content)
    headers = {"ETag": f'"{etag}"', "X-Repo-Commit": commit.oid, "Accept-Ranges": "bytes"}
    return 200, {"Content-Type": "application/octet-stream", **headers}, content


NAME, REVISION = r"(?P<name>(spaces/)?[\w.-]+/[\w.-]+)", r"(?P<revision>[\w.-]+)"
ROUTES: dict[tuple[str, str], Callable[..., Answer]] = {
    ("POST", "/api/repos/create"): create,
    ("POST", "/api/validate-yaml"): validate_yaml,
    ("POST", f"/api/models/{NAME}/preupload/{REVISION}"): preupload,
    ("POST", rf"/{NAME}\.git/info/lfs/objects/batch"): lfs_batch,
    ("PUT", r"/lfs/(?P<oid>[0-9a-f]{64})"): lfs_put,
    ("POST", "/lfs/verify"): lfs_verify,
    ("POST", f"/api/models/{NAME}/commit/{REVISION}"): make_commit,
    ("POST", f"/api/models/{NAME}/tag/{REVISION}"): make_tag,
    ("GET", f"/api/models/{NAME}/tree/{REVISION}"): tree,
    ("GET", f"/api/models/{NAME}(/revision/{REVISION})?"): info,
    ("GET HEAD", f"/{NAME}/resolve/{REVISION}/(?P<path>.+)"): resolve,
}
