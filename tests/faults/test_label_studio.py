"""`llava-dvc label` with a real Label Studio: `pip install label-studio` into an environment of its
own, and name its command in LABEL_STUDIO (default: label-studio). It starts in one to two minutes.
"""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator

import pytest
import requests

from llava_dvc.labelling.studio_server import KEY, StudioServer
from tests.labelling.studio_talk import draw_frames, talk

COMMAND = shutil.which(os.environ.get("LABEL_STUDIO", "label-studio"))
TOKEN = "0123456789abcdef0123456789abcdef01234567"
PATIENCE = 600  # seconds until it has made its database

pytestmark = pytest.mark.skipif(
    COMMAND is None, reason="Label Studio is not installed: LABEL_STUDIO names no command"
)


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("studio")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    login = ("--username", "a@example.com", "--password", "not-secret-1", "--user-token", TOKEN)
    address = ("--internal-host", "127.0.0.1", "--port", str(port), "--data-dir", str(folder))
    quiet = {"COLLECT_ANALYTICS": "false", "LATEST_VERSION_CHECK": "false", "SENTRY_DSN": ""}
    with (folder / "log.txt").open("w") as log:
        process = subprocess.Popen(
            [COMMAND, "start", "--no-browser", "--enable-legacy-api-token", *login, *address],
            env=os.environ | quiet | {"LABEL_STUDIO_BASE_DATA_DIR": str(folder)},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        wait_for(url, process)
        yield url
    finally:
        process.terminate()
        process.wait(30)


def wait_for(url: str, process: subprocess.Popen) -> None:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and process.poll() is None:
        try:
            if requests.get(f"{url}/health", timeout=5).ok:
                return
        except requests.ConnectionError:
            time.sleep(1)
    pytest.fail("Label Studio did not start")


def test_labels_go_there_and_come_back(studio, tmp_path):
    """The same as in the recording, which `python -m tests.labelling.studio_talk` makes anew."""
    draw_frames(tmp_path / "data")
    talk(StudioServer(studio, {KEY: TOKEN}), tmp_path / "data")


def test_a_personal_access_token_is_a_key_too(studio):
    """Its access ends after five minutes, and is taken again."""
    old = StudioServer(studio, {KEY: TOKEN})
    server = StudioServer(studio, {KEY: old._post("/api/token/", {})["token"]})
    server.find_project("people")
    server._token = "Bearer of.no.use"
    server.find_project("people")
