"""A conversation with Label Studio: had with a real server, recorded, and played back.

    LABEL_STUDIO_API_KEY=TOKEN python -m tests.labelling.studio_talk http://localhost:8080

records `talk` again with a fresh server, into studio_talk.json. The player gives an answer only to
the request that was recorded at that place.
"""

import json
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import requests

from llava_dvc.errors import UserError
from llava_dvc.labelling.bring_answers import StudioSource, bring_answers
from llava_dvc.labelling.label_pool import LabelPool, read_pool
from llava_dvc.labelling.send_frames import TaskMaker, open_project, send_frames, sent_frames
from llava_dvc.labelling.studio_server import KEY, StudioProject, StudioServer
from llava_dvc.labelling.studio_tasks import Guess, asks_for, zones_asked
from tests.conftest import frame

RECORDING = Path(__file__).with_suffix(".json")
NAMES = ["door/000000.jpg", "door/000030.jpg", "hall/000000.jpg", "hall/000030.jpg"]
WRONG_KEY = {KEY: "0" * 40}
GUESS = Guess(12, 10, 14, 0.25, "0123456789ab")
NUMBER = {"type": "number", "from_name": "people", "to_name": "image"}
HEAD = {"type": "keypointlabels", "from_name": "heads", "to_name": "image"}
ZONE = {"type": "polygonlabels", "from_name": "zone", "to_name": "image"}
SIZE = {"original_width": 64, "original_height": 48}


# --- the conversation ---------------------------------------------------------------------------


class Annotators:
    """People who answer tasks, through the API that the browser uses too."""

    def __init__(self, server: StudioServer) -> None:
        self.server = server

    def counts(self, project: StudioProject, task: int, *numbers: int) -> None:
        """One annotation for each number."""
        for number in numbers:
            self.answers(project, task, {**NUMBER, "value": {"number": number}})

    def answers(self, project: StudioProject, task: int, *results: dict, **more: object) -> None:
        key = self._tasks(project)[task]["id"]
        self.server._post(f"/api/tasks/{key}/annotations/", {"result": list(results), **more})

    def marks(self, project: StudioProject, task: int, *points: tuple[float, float]) -> None:
        """Heads, in percent of the picture."""
        value = {"width": 1, "keypointlabels": ["head"]}
        self.answers(
            project,
            task,
            *({**HEAD, **SIZE, "value": {"x": x, "y": y, **value}} for x, y in points),
        )

    def draws(
        self, project: StudioProject, task: int, zone: str, *corners: tuple, number: int | None
    ) -> None:
        """A zone, in percent of the picture, and a number."""
        value = {"points": [list(corner) for corner in corners], "polygonlabels": [zone]}
        drawn = {**ZONE, **SIZE, "image_rotation": 0, "value": {**value, "closed": True}}
        counted = [] if number is None else [{**NUMBER, "value": {"number": number}}]
        self.answers(project, task, drawn, *counted)

    def corrects(self, project: StudioProject, task: int, number: int) -> None:
        (old,) = self._tasks(project)[task]["annotations"]
        result = [{**NUMBER, "value": {"number": number}}]
        self.server._call("PATCH", f"/api/annotations/{old['id']}/", json={"result": result})

    def deletes(self, project: StudioProject, task: int) -> None:
        """All annotations of a task."""
        for old in self._tasks(project)[task]["annotations"]:
            requests.delete(
                f"{self.server.url}/api/annotations/{old['id']}/",
                auth=self.server._sign,
                timeout=60,
            ).raise_for_status()

    def _tasks(self, project: StudioProject) -> list[dict]:
        return self.server.export(project)


def draw_frames(data: Path) -> None:
    """Four frames without labels."""
    for seed, name in enumerate(NAMES):
        (data / "frames" / name).parent.mkdir(parents=True, exist_ok=True)
        frame(seed).save(data / "frames" / name)


def labels_in(data: Path) -> dict[str, int]:
    return {name: label.count for name, label in read_pool(data, ()).labels.items()}


class Talk:
    """One who labels with `llava-dvc label`, in `data`, and what each step is told."""

    def __init__(self, server: StudioServer, data: Path) -> None:
        self.server, self.data, self.annotators = server, data, Annotators(server)
        self.told: list[str] = []

    def sends(
        self, title: str, *names: str, heads: bool = False, zone: str | None = None
    ) -> StudioProject:
        project = open_project(self.server, title, heads, zone)
        sent = sent_frames(self.server.export(project))
        maker = TaskMaker(self.pool(), dict.fromkeys(NAMES, GUESS), heads)
        send_frames([name for name in names if name not in sent], maker, self.server, project)
        return project

    def brings(self, project: StudioProject) -> bool:
        self.told.clear()
        return bring_answers(
            self.pool(), StudioSource(self.server, project), lambda text: self.told.append(text)
        )

    def pool(self) -> LabelPool:
        return read_pool(self.data, ())


def talk(server: StudioServer, data: Path) -> None:
    """Everything that can happen to a label, in one project after the other."""
    door, later, hall, _ = NAMES
    person = Talk(server, data)
    project = person.sends("people", door, later, hall)
    assert person.sends("people", door, later, hall) == project
    found = server.export(project)
    assert [task["data"]["frame"] for task in found] == [door, later, hall]
    assert found[0]["data"]["note"] == "The model counts 12 (10 to 14)."
    assert not person.brings(project)

    person.annotators.counts(project, 0, 21)
    person.annotators.counts(project, 1, 10, 14, 12)
    person.annotators.answers(project, 2, was_cancelled=True)
    assert person.brings(project)
    assert labels_in(data) == {door: 21, later: 12}
    assert "Their counts differ by 4.0 on average" in "".join(person.told)
    assert "Tasks that their annotators skipped: 1.\n" in person.told
    assert (data / "messages.txt").is_file()
    tables = {path.name: path.read_bytes() for path in data.glob("*.csv")}
    assert not person.brings(project)
    assert {path.name: path.read_bytes() for path in data.glob("*.csv")} == tables

    person.annotators.corrects(project, 0, 22)
    person.annotators.deletes(project, 1)
    assert person.brings(project)
    assert labels_in(data) == {door: 22}
    assert "Labels: 0 new, 1 changed, 1 removed; 1 in all.\n" in person.told

    (data / "labels.csv").write_text(f"frame,count\n{door},25\n")
    assert not person.brings(project)
    assert labels_in(data) == {door: 25}
    assert f"by hand, and stay: {door}." in "".join(person.told)

    doubtful = person.sends("people doubtful", door)
    assert server.export(doubtful)[0]["data"]["note"].startswith("The label is 25. The model")
    person.annotators.counts(doubtful, 0, 20)
    assert person.brings(doubtful)
    assert labels_in(data) == {door: 20}
    assert not person.brings(project)
    assert labels_in(data) == {door: 20}

    (data / "labels.csv").unlink()
    (data / "label_studio.csv").unlink()
    marked = person.sends("heads", door, hall, heads=True)
    person.annotators.marks(marked, 0, (25, 50), (75, 12.5))
    person.annotators.answers(marked, 1)  # nobody is there
    assert person.brings(marked)
    assert labels_in(data) == {door: 2, hall: 0}
    points = (data / "points.csv").read_text().splitlines()
    assert points == ["frame,x,y", f"{door},16.0,24.0", f"{door},48.0,6.0"]
    _talk_of_zones(person)


def _talk_of_zones(person: Talk) -> None:
    """A project of before asks for a zone too. What it asked for, it still asks for."""
    door, later, hall, _ = NAMES
    data = person.data
    for table in ("labels.csv", "label_studio.csv", "points.csv"):
        (data / table).unlink()
    asked = person.sends("heads", door, heads=False, zone="tills")
    config = person.server.find_project("heads").config
    assert asks_for(config, heads=True, zones=["tills"])
    assert asked.config == config
    assert zones_asked(person.sends("heads", door, zone="till & door").config) == {
        "tills",
        "till & door",
    }
    drawn = person.sends("zones", door, later, hall, heads=True, zone="tills")
    lower, left = ((0, 50), (100, 50), (100, 100), (0, 100)), ((0, 25), (50, 25), (50, 100))
    person.annotators.draws(drawn, 0, "tills", *lower, number=3)
    person.annotators.draws(drawn, 1, "tills", *left, number=3)
    person.annotators.draws(drawn, 2, "tills", *left, number=None)
    assert person.brings(drawn)
    assert labels_in(data) == {door: 3, later: 3}
    assert any(text.startswith(f"Only a zone is drawn on {hall}, which") for text in person.told)
    newest = [[0.0, 12.0], [32.0, 12.0], [32.0, 48.0]]
    assert json.loads((data / "zones.json").read_text()) == {"tills": {"*": newest}}
    assert "Zone tills for camera *: the newest of 3 outlines is taken.\n" in person.told
    assert not any("left out" in line for line in person.told)
    assert not person.brings(drawn)
    typed = {"tills": {"*": [[0, 0], [9, 0], [9, 9]]}}
    (data / "zones.json").write_text(json.dumps(typed))
    assert not person.brings(drawn)
    assert json.loads((data / "zones.json").read_text()) == typed
    assert "has another outline than in Label Studio, and stays." in "".join(person.told)


# --- recording and playing ----------------------------------------------------------------------


class _Handler(BaseHTTPRequestHandler):
    def do_any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        kind = self.headers.get("Content-Type", "")
        is_form = kind.startswith("multipart/")  # its boundary is random, and its picture large
        sent = None if is_form or not body else json.loads(body)
        asked = {"method": self.command, "path": self.path, "sent": sent}
        status, content_type, answer = self.server.answer(asked, body, self.headers)
        content = answer.encode()
        self.send_response(status)
        if status != 204:
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PATCH = do_DELETE = do_any

    def log_message(self, *_: object) -> None:
        pass


class Recorder(ThreadingHTTPServer):
    """Passes requests on to a real server, and keeps what both say."""

    def __init__(self, target: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.target, self.exchanges = target, []

    def answer(self, asked: dict, body: bytes, headers: Mapping[str, str]) -> tuple[int, str, str]:
        passed = {k: v for k, v in headers.items() if k in ("Authorization", "Content-Type")}
        reply = requests.request(
            asked["method"], self.target + asked["path"], data=body, headers=passed, timeout=60
        )
        said = (reply.status_code, reply.headers.get("Content-Type", ""), reply.text)
        self.exchanges.append([asked, said])
        return said


class Player(ThreadingHTTPServer):
    """Answers as the recorded server did, if it is asked the same in the same order."""

    def __init__(self, exchanges: list) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.exchanges, self.others = exchanges, []

    def answer(self, asked: dict, _body: bytes, _: Mapping[str, str]) -> tuple[int, str, str]:
        if self.exchanges and self.exchanges[0][0] == asked:
            return tuple(self.exchanges.pop(0)[1])
        self.others.append(asked)
        return 418, "text/plain", "nobody has asked this"


@contextmanager
def serving(server: ThreadingHTTPServer) -> Iterator[str]:
    """Runs the server in a thread; yields its address."""
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def record(target: str) -> None:
    recorder = Recorder(target.rstrip("/"))
    with tempfile.TemporaryDirectory() as folder, serving(recorder) as url:
        data = Path(folder) / "data"
        draw_frames(data)
        talk(StudioServer(url), data)
        with suppress(UserError):
            StudioServer(url, WRONG_KEY).find_project("people")
    RECORDING.write_text(json.dumps(recorder.exchanges, indent=0) + "\n")


if __name__ == "__main__":
    record(sys.argv[1])
