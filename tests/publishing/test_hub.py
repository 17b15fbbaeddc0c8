"""Uploads over real HTTP to the small Hub of hub_server.py."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import mlflow
import pytest
from huggingface_hub import constants

from llava_dvc.errors import UserError
from llava_dvc.publishing import hub, hub_errors, push
from llava_dvc.publishing.folder import published_files, version_tag
from llava_dvc.tracking.run import open_result, open_run
from tests.conftest import ROOT
from tests.publishing import hub_server
from tests.publishing.published import FIGURES, publish

TOKEN = "hf_marked_token_0123456789"
REPO = "someone/llava-people-counter"


@pytest.fixture(scope="session")
def session_folder(cfg, tmp_path_factory):
    return publish(cfg, tmp_path_factory.mktemp("built"))


@pytest.fixture
def folder(session_folder, tmp_path):
    """A published folder in a repository of its own."""
    copy = tmp_path / "published"
    copy.mkdir()
    for path in session_folder.rglob("*"):
        if path.is_file():
            target = copy / path.relative_to(session_folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    return copy


@pytest.fixture(scope="session")
def root(tmp_path_factory):
    """Where local state is; one for all, as a new store takes seconds."""
    return tmp_path_factory.mktemp("root")


@pytest.fixture
def server(monkeypatch, root):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("DVC_ROOT", str(root))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("DVC_EXP_NAME", raising=False)
    monkeypatch.setattr(hub_errors, "ATTEMPTS", 4)
    monkeypatch.setattr(hub_errors, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", constants.HF_HUB_DISABLE_XET)
    with hub_server.running() as running:
        running.tokens = {TOKEN: {"someone"}, "hf_of_another": {"somebody-else"}}
        monkeypatch.setattr(constants, "ENDPOINT", running.url)
        yield running


def upload(folder: Path, repo: str = REPO, private: bool = True) -> hub.UploadResult:
    files, tag = published_files(folder), version_tag(folder)
    message = f"{folder.name} {tag}"
    return hub.upload(files, repo, private=private, tag=tag, message=message)


@pytest.fixture
def asked(cfg):
    return cfg.publish.model_copy(update={"repo": REPO})


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def uploaded(server: hub_server.Hub, repo: str = REPO) -> dict[str, bytes]:
    files = dict(server.repos[repo].commits[-1].files)
    del files[".gitattributes"]
    return files


def test_one_commit_and_one_tag(server, folder, asked):
    told = push.push_folder(folder, asked)
    repo = server.repos[REPO]
    first, made = repo.commits
    assert repo.private
    assert uploaded(server) == contents(folder)
    assert repo.tags == {version_tag(folder): made.oid}
    assert told.startswith(f"{server.url}/{REPO}: uploaded, commit {made.oid}, tag v-")
    assert first.message == "initial commit"


def test_a_second_push_makes_no_commit(server, folder, asked):
    push.push_folder(folder, asked)
    before = len(server.log)
    assert "nothing new, commit" in push.push_folder(folder, asked)
    assert len(server.repos[REPO].commits) == 2
    assert not [path for _, path, _ in server.log[before:] if "/commit/" in path or "/lfs" in path]


def test_another_version_replaces_the_first(server, folder, cfg, tmp_path):
    upload(folder)
    other = publish(cfg, tmp_path / "second", metrics={**FIGURES, "temperature": 2.0})
    (other / "plots" / "confusion.png").unlink()
    manifest = json.loads((other / "manifest.json").read_text())
    manifest["files"] = [f for f in manifest["files"] if f["path"] != "plots/confusion.png"]
    (other / "manifest.json").write_text(json.dumps(manifest))
    upload(other)
    repo = server.repos[REPO]
    assert len(repo.commits) == 3
    assert uploaded(server) == contents(other)
    assert set(repo.tags) == {version_tag(folder), version_tag(other)}
    assert server.calls(r"PUT /lfs/")[6:] == []  # weights and plots are there already


def test_a_repository_is_private_unless_asked_otherwise(server, folder):
    upload(folder, private=False)
    assert not server.repos[REPO].private
    with pytest.raises(UserError, match=r"is public, but publish.private is true\. Make"):
        upload(folder)


def test_the_receipt_names_the_run_of_the_result(server, folder, asked, cfg, root):
    manifest = json.loads((folder / "manifest.json").read_text())
    adapter = manifest["adapter_sha256"]
    with open_run("train", cfg, {"train"}, "k", {}) as run:
        run.tags({"adapter": adapter, "machine.train": "2 cores of a test, 8 GiB"})
        run.metrics({"usage/train/minutes": 3.44, "usage/train/peak_memory_gib": 1.25})
    with open_result(cfg, adapter, "abc.dir") as run:
        run.metrics({"mae": 1.0})
    before = contents(folder)
    push.push_folder(folder, asked)
    receipt = json.loads((root / "receipts" / REPO / f"{version_tag(folder)}.json").read_text())
    commit = server.repos[REPO].commits[-1].oid
    assert (receipt["commit"], receipt["repo"], receipt["run_id"]) == (commit, REPO, run.run_id)
    assert len(receipt["git_revision"]) == 40
    store = mlflow.MlflowClient(f"sqlite:///{root}/mlflow.db")
    tags = store.get_run(run.run_id).data.tags
    assert (tags["hub.commit"], tags["hub.tag"]) == (commit, version_tag(folder))
    assert contents(folder) == before
    assert server.repos[REPO].commits[-1].description == (
        "Trained on 2 cores of a test, 8 GiB. Training needed 3.4 minutes, 1.2 GiB of memory."
    )


def test_an_upload_succeeds_without_a_tracker(server, folder, asked, monkeypatch, capsys):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free.getsockname()[1]}")
    assert "uploaded" in push.push_folder(folder, asked)
    assert "tracking: no tags on the run" in capsys.readouterr().err


TRANSIENT = [
    ("POST /api/repos/create", 500, 2),
    ("POST /api/repos/create", 409, 1),
    ("POST /api/repos/create", "cut", 1),
    ("POST /api/repos/create", "lost", 1),
    ("POST /api/validate-yaml", 500, 2),
    ("POST /api/validate-yaml", "cut", 1),
    ("POST .*/preupload/main", 503, 1),
    ("POST .*/objects/batch", 500, 1),
    ("PUT /lfs/", 500, 1),
    ("PUT /lfs/", "cut", 1),
    ("PUT /lfs/", "lost", 1),
    ("POST .*/commit/main", 500, 2),
    ("POST .*/commit/main", 503, 3),
    ("POST .*/commit/main", 409, 1),
    ("POST .*/commit/main", 412, 1),
    ("POST .*/commit/main", "cut", 1),
    ("POST .*/commit/main", "lost", 1),
    ("GET .*/tree/main", 500, 1),
    ("POST .*/tag/", 500, 1),
    ("POST .*/tag/", "lost", 1),
]


@pytest.mark.parametrize(("where", "how", "times"), TRANSIENT)
def test_a_transient_error_is_retried(server, folder, where, how, times):
    body = b"<html>an error page</html>" if how in (500, 503) else None
    server.fail(where, how, times, body)
    upload(folder)
    repo = server.repos[REPO]
    assert [c.message.split()[0] for c in repo.commits] == ["initial", "published"]
    assert uploaded(server) == contents(folder)
    assert repo.tags == {version_tag(folder): repo.commits[-1].oid}
    assert server.faults[0].times == 0


def test_a_commit_that_landed_is_not_made_again(server, folder):
    server.fail(r"POST .*/commit/main", "lost")
    assert upload(folder).new
    assert server.calls(r"POST .*/commit/main") == ["lost"]


def test_a_commit_of_somebody_else_in_between(server, folder):
    server.fail(r"POST .*/commit/main", "overtaken")
    upload(folder)
    made = [commit.message.split()[0] for commit in server.repos[REPO].commits]
    assert made == ["initial", "somebody", "published"]
    assert server.calls(r"POST .*/commit/main") == [412, 200]
    assert uploaded(server) == contents(folder)


def test_retry_after_is_respected(server, folder, monkeypatch, capsys):
    waited = []
    monkeypatch.setattr(time, "sleep", waited.append)
    server.fail(r"POST .*/commit/main", 429, Retry_After="7")
    upload(folder)
    assert waited == [7.0]
    assert "hub: HTTP status 429; retry in 7 s" in capsys.readouterr().err


def test_the_wait_doubles_until_the_last_attempt(monkeypatch, capsys):
    waited = []
    monkeypatch.setattr(time, "sleep", waited.append)

    def call() -> None:
        raise hub_errors.RepoBusyError

    with pytest.raises(hub_errors.RepoBusyError):
        hub_errors.with_retries(call)
    assert waited == [1.0, 2.0, 4.0, 8.0]
    lines = capsys.readouterr().err.splitlines()
    assert lines == [f"hub: HTTP status 409; retry in {s} s" for s in (1, 2, 4, 8)]
    assert hub_errors.get_session().timeout.read == hub_errors.TIMEOUT


def test_an_unknown_error_is_not_retried(monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda _: pytest.fail("waited"))
    with pytest.raises(ZeroDivisionError):
        hub_errors.with_retries(lambda: 1 / 0)


# request, fault, headers of the response, error line
REFUSALS = [
    ("POST /api/repos/create", 401, {}, r"HF_TOKEN: \S+ does not accept it\. Make a token"),
    ("POST /api/repos/create", 403, {}, r"publish.repo: the token in HF_TOKEN may not write to"),
    ("POST .*/commit/main", 403, {}, r"publish.repo: the token in HF_TOKEN may not write to"),
    ("POST .*/preupload/main", 401, {}, r"HF_TOKEN: \S+ does not accept it"),
    ("PUT /lfs/", 403, {}, r"publish.repo: the token in HF_TOKEN may not write to"),
    ("POST .*/commit/main", 409, {}, r"else is writing to someone/.*\. `llava-dvc push` continues"),
    ("POST .*/commit/main", 500, {}, r"still answers with status 500\. `llava-dvc push` continues"),
    ("POST .*/commit/main", 413, {}, r"publish.repo: \S+ refuses someone/\S+: .*test"),
    ("POST .*/commit/main", "cut", {}, r"HF_ENDPOINT: \S+ cannot be reached \(.+\)\. Check"),
    ("POST .*/commit/main", 429, {"Retry_After": "900"}, r"too many requests \(wait 900 s\)"),
]


@pytest.mark.parametrize(("where", "how", "headers", "line"), REFUSALS)
def test_a_permanent_error_is_one_line(server, folder, where, how, headers, line):
    server.fail(where, how, 100, **headers)
    with pytest.raises(UserError, match=line) as caught:
        upload(folder)
    assert "\n" not in str(caught.value)
    assert TOKEN not in str(caught.value)


@pytest.mark.parametrize(
    ("token", "repo", "line"),
    [
        (
            "",
            REPO,
            r"HF_TOKEN: is not set\. Make a token with write access at http://127.0.0.1:\d+/se",
        ),
        ("hf_wrong", REPO, r"HF_TOKEN: http://127.0.0.1:\d+ does not accept it"),
        ("hf bad\ntoken", REPO, r"HF_TOKEN: contains a character that tokens never contain\. Copy"),
        ("hf_of_another", REPO, r"may not write to someone/llava-people-counter"),
        (TOKEN, "nobody/x", r"publish.repo: http://127.0.0.1:\d+ has no nobody, or no nobody/x"),
        (TOKEN, "someone/a--b", r"publish.repo: someone/a--b cannot be pushed"),
    ],
)
def test_a_users_mistake_is_one_line(server, folder, monkeypatch, token, repo, line):
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(UserError, match=line) as caught:
        upload(folder, repo)
    assert "\n" not in str(caught.value)
    assert not token or token not in str(caught.value)
    assert not server.repos


def test_a_card_that_the_hub_refuses(server, folder):
    body = json.dumps({"errors": [{"message": "no such licence"}], "warnings": []}).encode()
    server.fail("POST /api/validate-yaml", 400, 100, body)
    with pytest.raises(UserError, match=r"Invalid metadata in README.md. - no such licence"):
        upload(folder)


def test_a_password_in_the_endpoint_is_not_shown(server, folder, monkeypatch):
    address = server.url.replace("http://", "http://me:secret-word@")
    monkeypatch.setattr(constants, "ENDPOINT", address)
    server.fail(r"POST .*/commit/main", 500, 100)
    with pytest.raises(UserError) as caught:
        upload(folder)
    assert "secret-word" not in str(caught.value)


def test_the_placeholder_is_named_before_the_token(server, folder, cfg):
    line = (
        "publish.repo: is your-name/llava-people-counter, a placeholder. Set it to OWNER/NAME, a "
        "repository of your own on the Hub."
    )
    params = (ROOT / "presets" / "tiny.yaml").read_text()
    done = call(folder, "push", params=params, HF_TOKEN="")
    assert (done.returncode, done.stderr) == (1, f"error: {line}\n")
    pushing = params.replace("push: false", "push: true")
    done = call(folder, "doctor", params=pushing)
    assert (done.returncode, done.stderr) == (1, f"error: params.yaml: {line}\n")


def test_a_changed_folder_is_not_uploaded(server, folder, asked):
    (folder / "recipe.json").write_text("{}")
    with pytest.raises(UserError, match=r"recipe.json: is changed since manifest.json was written"):
        push.push_folder(folder, asked)
    assert not server.log


def test_a_folder_worse_than_a_baseline_is_not_uploaded(server, cfg, asked, tmp_path):
    poor = publish(cfg, tmp_path / "poor", metrics={**FIGURES, "mae": 5.5})
    line = (
        r"poor/published: has an MAE of 5\.50 people, but ridge_features has 3\.00\. "
        r"Train longer, or set publish\.force"
    )
    with pytest.raises(UserError, match=line):
        push.push_folder(poor, asked)
    assert not server.log
    assert push.push_after_stage(poor, asked) == (
        f"note: {poor}: has an MAE of 5.50 people, but ridge_features has 3.00. "
        "`llava-dvc push` refuses to upload it.\n"
    )
    push.push_folder(poor, asked.model_copy(update={"force": True}))
    assert uploaded(server) == contents(poor)


def test_the_stage_uploads_when_asked_and_never_in_an_experiment(
    server, folder, asked, monkeypatch
):
    assert push.push_after_stage(folder, asked) == ""
    pushing = asked.model_copy(update={"push": True})
    monkeypatch.setenv("DVC_EXP_NAME", "bold-name")
    assert push.push_after_stage(folder, pushing).startswith(
        "publish.push: is true, but an experiment u"
    )
    assert not server.log
    monkeypatch.delenv("DVC_EXP_NAME")
    assert "uploaded" in push.push_after_stage(folder, pushing)


def call(
    folder: Path, *arguments: str, params: str | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """`llava-dvc` as a user calls it, beside the published folder."""
    own = (ROOT / "presets" / "tiny.yaml").read_text().replace("your-name/", "someone/")
    (folder.parent / "params.yaml").write_text(params or own)
    return subprocess.run(
        [Path(sys.executable).parent / "llava-dvc", *arguments],
        cwd=folder.parent,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def download(server: hub_server.Hub, folder: Path, revision: str) -> Path:
    """What anyone gets who may read the repository."""
    code = f"snapshot_download({REPO!r}, local_dir={str(folder)!r}, revision={revision!r})"
    code = f"from huggingface_hub import snapshot_download; {code}"
    env = os.environ | {"HF_ENDPOINT": server.url, "HF_HUB_DISABLE_XET": "1"}
    subprocess.run([sys.executable, "-c", code], env=env, check=True)
    shutil.rmtree(folder / ".cache")
    (folder / ".gitattributes").unlink()
    return folder


def test_push_from_the_command_line(server, folder, root, tmp_path):
    done = call(folder, "push", HF_ENDPOINT=server.url)
    assert done.returncode == 0, done.stderr
    assert f"{REPO}: uploaded, commit {server.repos[REPO].commits[-1].oid}" in done.stdout
    assert TOKEN not in done.stdout + done.stderr
    got = download(server, tmp_path / "got", version_tag(folder))
    assert contents(got) == contents(folder)
    for path in (*tmp_path.rglob("*"), *root.rglob("*")):
        if path.is_file():
            assert TOKEN.encode() not in path.read_bytes(), path


def test_an_endpoint_that_is_not_there(server, folder):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "ENDPOINT", address)
        with pytest.raises(
            UserError, match=rf"HF_ENDPOINT: {address} cannot be reached \(.*\)\. Ch"
        ):
            hub.upload({}, REPO, private=True, tag="v", message="v")


def test_offline(server, folder):
    done = call(folder, "push", HF_ENDPOINT=server.url, HF_HUB_OFFLINE="1")
    assert done.stderr == "error: HF_HUB_OFFLINE: is set, so nothing is uploaded. Unset it.\n"


def test_a_server_that_shows_neither_commits_nor_files(server, folder):
    """Then the client's own comparison has to do."""
    for _ in range(2):
        server.fail(r"GET .*/(tree|revision)/main", 404, 2)
        upload(folder)
    assert len(server.repos[REPO].commits) == 2


def test_push_without_a_built_folder(folder):
    done = call(folder, "push", "elsewhere")
    assert done.returncode == 1
    assert done.stderr == "error: elsewhere/manifest.json: not found; run `dvc repro`\n"
