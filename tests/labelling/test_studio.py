"""Label Studio: a recorded conversation with a real server, errors, and the file for an import."""

import base64
import io
import json
import socket
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from PIL import Image

from llava_dvc.data.images import read_image
from llava_dvc.data.imports.annotations import ImportChoices
from llava_dvc.data.imports.import_source import ImportPlan, import_source
from llava_dvc.errors import UserError
from llava_dvc.labelling.label_pool import read_pool
from llava_dvc.labelling.send_frames import TaskMaker, write_tasks
from llava_dvc.labelling.studio_server import KEY, StudioServer
from llava_dvc.labelling.studio_tasks import asks_for, form
from tests.conftest import frame
from tests.labelling.studio_talk import (
    GUESS,
    NAMES,
    NUMBER,
    RECORDING,
    WRONG_KEY,
    Player,
    draw_frames,
    labels_in,
    serving,
    talk,
)

ANY_KEY = {KEY: "1" * 40}


@pytest.fixture
def data(tmp_path):
    draw_frames(tmp_path / "data")
    return tmp_path / "data"


# --- the server ---------------------------------------------------------------------------------


def test_labels_go_to_label_studio_and_come_back(data):
    """Several annotators, corrections, deletions, second runs, labels made by hand, heads; and a
    wrong key.
    """
    player = Player(json.loads(RECORDING.read_text()))
    with serving(player) as url:
        talk(StudioServer(url, ANY_KEY), data)
        with pytest.raises(UserError) as caught:
            StudioServer(url, WRONG_KEY).find_project("people")
    assert str(caught.value).startswith(f"{KEY}: {url} refuses the key (Invalid token.). Copy it ")
    assert (player.exchanges, player.others) == ([], [])


def refused(url: str, environment: dict[str, str]) -> str:
    with pytest.raises(UserError) as caught:
        StudioServer(url, environment)
    return str(caught.value).replace(url, "URL")


def test_no_key():
    version = json.loads(RECORDING.read_text())[:1]
    with serving(Player(version)) as url:
        assert refused(url, {}).startswith(f"{KEY}: is not set. Set it to the token of your acc")


def test_no_server():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        assert refused(url, ANY_KEY).startswith("URL: no server answers (Connection refused). ")
    for odd in ("localhost:8080", "ftp://studio", "http://"):
        assert refused(odd, ANY_KEY).startswith("URL: is no address of a server. Give one such as")


class Elsewhere(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(301)
        self.send_header("Location", "https://studio.example/api/version")
        self.end_headers()

    def log_message(self, *_):
        pass


class Files(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.mark.parametrize(
    ("handler", "words"),
    [
        (Elsewhere, "URL: leads to https://studio.example/api/version. Give that server's own "),
        (Files, "URL: is no Label Studio server, or not at this path. Correct the address."),
    ],
)
def test_another_server(handler, words, tmp_path):
    made = partial(handler, directory=str(tmp_path)) if handler is Files else handler
    with serving(ThreadingHTTPServer(("127.0.0.1", 0), made)) as url:
        assert refused(url, ANY_KEY).startswith(words)


def test_the_key_is_not_sent_to_another_server():
    """It goes only to one that says it is Label Studio."""
    seen, given = threading.Event(), []

    class Curious(Files):
        def do_GET(self):
            given.append(self.headers.get("Authorization"))
            seen.set()
            super().do_GET()

    with serving(ThreadingHTTPServer(("127.0.0.1", 0), Curious)) as url:
        refused(url, ANY_KEY)
    assert seen.is_set()
    assert given == [None]


# --- the answers --------------------------------------------------------------------------------


def test_a_form_that_was_edited_by_hand_is_kept():
    assert asks_for(form(heads=True), heads=True)
    edited = form(heads=False).replace("</View>", '<TextArea name="why" toName="image"/></View>')
    assert asks_for(edited, heads=False)
    assert not asks_for(edited, heads=True)
    assert not asks_for("<View></View>", heads=False)
    assert not asks_for("<View>", heads=False)


# --- the file -----------------------------------------------------------------------------------


def test_the_file_holds_pictures_and_counts(data, tmp_path):
    frame(7).save(data / "frames" / "old.tif")  # browsers show none
    (data / "labels.csv").write_text(f"frame,count,camera\n{NAMES[0]},7,front\n")
    maker = TaskMaker(read_pool(data, ()), {"old.tif": GUESS}, heads=False)
    path = tmp_path / "tasks.json"
    write_tasks([NAMES[0], NAMES[1], "old.tif"], maker, path)
    known, camera, old = json.loads(path.read_text())
    assert (known["data"]["label"], known["data"]["camera"]) == (7, "front")
    assert camera["data"]["camera"] == "front"  # that of its folder
    assert "label" not in camera["data"]
    assert "camera" not in old["data"]
    (prediction,) = old["predictions"]
    assert prediction["score"] == 0.25
    assert prediction["result"][0]["value"] == {"number": 12}
    kind, content = old["data"]["image"].split(";base64,")
    assert kind == "data:image/png"
    shown = Image.open(io.BytesIO(base64.b64decode(content)))
    assert np.array_equal(shown, read_image(data / "frames" / "old.tif"))
    assert (tmp_path / "tasks.xml").read_text() == form(heads=False)


def test_its_export_can_be_imported_by_hand(data, tmp_path):
    """The picture is found by its place in frames/, although the task holds the bytes."""
    maker = TaskMaker(read_pool(data, ()), {}, heads=False)
    write_tasks(NAMES, maker, tmp_path / "tasks.json")
    tasks = json.loads((tmp_path / "tasks.json").read_text())
    for number, task in enumerate(tasks):
        answer = {"result": [{**NUMBER, "value": {"number": number}}]}
        task |= {"id": number, "annotations": [answer]}
    export = tmp_path / "export.json"
    export.write_text(json.dumps(tasks))
    plan = ImportPlan(export, None, data / "frames", ImportChoices())
    assert import_source(plan, tmp_path / "imported", lambda _: None) == 4
    assert labels_in(tmp_path / "imported") == dict(zip(NAMES, range(4), strict=True))
