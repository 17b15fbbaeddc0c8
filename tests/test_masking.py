"""Passwords and tokens in errors, logs, warnings and tracebacks."""

import os
import subprocess
import sys

import pytest

from llava_dvc.errors import UserError, check_endpoint
from llava_dvc.masking import masked
from llava_dvc.serving.adapter_source import find_adapter
from llava_dvc.tracking.mlflow_store import failure_reason, unreachable
from tests.conftest import ROOT

PASSWORD = "s3cret-word"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://ada:pass@tracker:5000/x", "http://tracker:5000/x"),
        ("http://ada:p@ss@tracker:5000", "http://tracker:5000"),
        ("http://ada:pa/ss@tracker:5000", "http://tracker:5000"),
        ("http://ghp_abcdef@tracker/x", "http://tracker/x"),
        ("postgresql://ada:pass@db/mlflow and http://b", "postgresql://db/mlflow and http://b"),
        ("ada:pass@tracker:5000/x is no address", "tracker:5000/x is no address"),
        ("(ada:pass@tracker)", "(tracker)"),
        ("http://tracker/x?token=abc&view=1", "http://tracker/x?token=***&view=1"),
        ("http://tracker/x?view=1&Password=a%2Fb'", "http://tracker/x?view=1&Password=***'"),
        ("s3://b/x?X-Amz-Signature=ab12", "s3://b/x?X-Amz-Signature=***"),
        ("host=db password=abc dbname=x", "host=db password=*** dbname=x"),
    ],
)
def test_what_looks_like_a_login_is_masked(text, shown):
    assert masked(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "sqlite:////tmp/mlflow.db",
        "http://127.0.0.1:5000/#/experiments/1/runs?viewStateShareKey=results&workflowType=machine",
        "http://host:5000/owner/name@v1",
        "owner/name@v1: is not a folder",
        "git@github.com:owner/name.git",
        "params.yaml:3: train.batch_size: is 3",
        "data/labels.csv:7: camera is 'a@b'",
        "clip.mp4#t=12 at 12:30:05",
        "10 tokens; set pad_token=<pad>",
    ],
)
def test_other_text_stays(text):
    assert masked(text) == text


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HF_ENDPOINT", f"http://user:{PASSWORD}@mirror"),
        ("HF_ENDPOINT", f"user:{PASSWORD}@mirror"),
        ("HF_ENDPOINT", f"http://{PASSWORD}@mirror"),
        ("MLFLOW_TRACKING_URI", f"http://tracker/x?token={PASSWORD}"),
        ("MLFLOW_TRACKING_URI", f"http://tracker/x?a=1&password={PASSWORD}#x"),
        ("https_proxy", f"http://user:{PASSWORD}@proxy:3128"),
        ("MLFLOW_TRACKING_PASSWORD", PASSWORD),
        ("AWS_SECRET_ACCESS_KEY", PASSWORD),
        ("HF_TOKEN", PASSWORD),
        ("GITHUB_PAT", PASSWORD),
        ("PGPASSWORD", PASSWORD),
    ],
)
def test_a_secret_of_the_environment_is_masked_wherever_it_stands(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    assert masked(f"login {PASSWORD}!") == "login ***!"


@pytest.mark.parametrize(
    ("password", "shown_as"),
    [
        ("s3/cr et@w:rd", ["s3/cr et@w:rd", "s3%2Fcr%20et%40w%3Ard", "s3%2Fcr+et%40w%3Ard"]),
        ("s3%2Fcret%20w", ["s3%2Fcret%20w", "s3/cret w"]),
        ("s3cr'et\\x", ["s3cr'et\\x", repr("s3cr'et\\x")]),
        ("1234/word-two", ["Port could not be cast to integer value as 'word-two'"]),
        ("two  spaces", ["two  spaces", "two spaces"]),
    ],
)
def test_every_spelling_of_a_password_is_masked(monkeypatch, password, shown_as):
    monkeypatch.setenv("HF_ENDPOINT", f"http://user:x{password}@mirror/hub")
    monkeypatch.setenv("A_PASSWORD", password)
    for spelling in shown_as:
        found = masked(f"see {spelling} there")
        assert "***" in found
        assert not any(part in found for part in ("s3", "cr et", "w:rd", "word", "two"))


def test_the_header_of_a_login_is_masked(monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", f"http://user:{PASSWORD}@mirror")
    assert masked("Authorization: Basic dXNlcjpzM2NyZXQtd29yZA==") == "Authorization: Basic ***"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "true"),
        ("SSH_ASKPASS", "/usr/bin/ask"),
        ("AWS_WEB_IDENTITY_TOKEN_FILE", "/run/token"),
        ("PWD", "/home/ada"),
        ("MLFLOW_TRACKING_URI", "http://host:5000/home/a@b"),
        ("SHORT_KEY", "t"),
    ],
)
def test_what_is_no_secret_is_shown(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    text = "/usr/bin/ask: /run/token of /home/ada is true"
    assert masked(text) == text


def test_an_error_holds_no_secret(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://user:{PASSWORD}@127.0.0.1:9/x")
    assert PASSWORD not in str(UserError(f"x: {PASSWORD} is wrong"))
    failed = OSError(("x" * 195) + PASSWORD)  # the text is cut in the middle of the password
    assert PASSWORD[:4] not in failure_reason(failed)
    assert PASSWORD[:4] not in str(unreachable(failed))


PROGRAM = """
import logging, sys, threading, warnings
from llava_dvc.masking import hide_secrets

logger = logging.getLogger("a.library")  # before the masks, with a handler of its own
logger.addHandler(logging.StreamHandler())
hide_secrets()
address = "http://user:s3cret-word@mirror/x"
logger.warning("retry %s in %d s", address, 3)
logger.warning("%d is the wrong format", address)
warnings.warn("no answer from " + address)
try:
    raise OSError(address)
except OSError:
    logger.exception("%s", "failed")
thread = threading.Thread(target=lambda: open(address))
thread.start()
thread.join()
print("asked", address, file=sys.stderr)
raise RuntimeError("lost " + address) from ValueError("s3cret-word")
"""


def run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=os.environ | environment,
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_logs_warnings_and_tracebacks_hold_no_secret():
    done = run("-c", PROGRAM, HF_ENDPOINT=f"http://user:{PASSWORD}@mirror")
    assert done.returncode == 1
    assert PASSWORD not in done.stdout + done.stderr
    for shown in (
        "retry http://mirror/x in 3 s\n",
        "no answer from http://mirror/x\n",
        "asked http://mirror/x\n",
        "OSError: http://mirror/x\n",
        "No such file or directory: 'http://mirror/x'\n",
        "RuntimeError: lost http://mirror/x\n",
        "ValueError: ***\n",
    ):
        assert shown in done.stderr


NO_DOWNLOAD = "owner/name: is not a folder, and cannot be downloaded from the Hub ("


@pytest.mark.parametrize(
    "endpoint", ["http://user:{}@127.0.0.1:9", "http://127.0.0.1:9/x?token={}"]
)
def test_a_failed_download_shows_no_password(endpoint):
    """The Hub's client logs the address, and puts it into its errors."""
    code = (
        "from llava_dvc.masking import hide_secrets; hide_secrets();"
        "from llava_dvc.serving.adapter_source import find_adapter; find_adapter('owner/name')"
    )
    endpoint = endpoint.format(PASSWORD)
    done = run("-c", code, HF_ENDPOINT=endpoint, HF_HUB_OFFLINE="0", HF_DEBUG="1")
    assert done.returncode == 1
    assert NO_DOWNLOAD in done.stderr
    assert PASSWORD not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("endpoint", "reason"),
    [
        (f"http://user:{PASSWORD}/a@mirror", "Port could not be cast to integer value as '***'"),
        (f"http://user:a/{PASSWORD}@mirror", "Port could not be cast to integer value as 'a'"),
        (f"user:{PASSWORD}@mirror", "it has no http:// or https://"),
        ("mirror", "it has no http:// or https://"),
    ],
)
def test_an_address_that_is_none_is_one_line(monkeypatch, endpoint, reason):
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    with pytest.raises(UserError) as caught:
        check_endpoint()
    assert str(caught.value) == (
        f"HF_ENDPOINT: is not an address ({reason}); write it as https://HOST, and / and @ in a "
        "password as %2F and %40"
    )


def test_a_command_says_so_before_the_hub_is_imported():
    code = "import sys; sys.argv[1:] = ['push']; from llava_dvc.cli import main; main()"
    done = run("-c", code, HF_ENDPOINT=f"http://user:{PASSWORD}/a@mirror")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: HF_ENDPOINT: is not an address (")


def test_an_adapters_error_shows_no_password(monkeypatch):
    monkeypatch.setenv("SOME_URL", f"http://user:{PASSWORD}@mirror")
    with pytest.raises(UserError) as caught:
        find_adapter(f"owner/{PASSWORD}$")
    assert PASSWORD not in str(caught.value)
