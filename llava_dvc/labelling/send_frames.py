"""`llava-dvc label --to URL` and `--file FILE`: frames become tasks of Label Studio."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any

from tqdm import tqdm

from llava_dvc.data.images import read_image
from llava_dvc.files import write_json
from llava_dvc.labelling.label_pool import LabelPool
from llava_dvc.labelling.studio_server import StudioProject, StudioServer
from llava_dvc.labelling.studio_tasks import (
    Guess,
    asks_for,
    asks_for_heads,
    form,
    task,
    zones_asked,
)

BATCH = 10  # tasks that are added at once: of an interrupted run the others are missing

_SHOWN_BY_BROWSERS = {".jpg": "jpeg", ".jpeg": "jpeg", ".png": "png", ".webp": "webp"}


@dataclass(frozen=True)
class TaskMaker:
    """Makes the tasks of frames."""

    pool: LabelPool
    guesses: Mapping[str, Guess]
    heads: bool
    zone: str | None = None

    def make(self, name: str, address: str) -> dict[str, Any]:
        known: dict[str, Any] = {}
        if camera := self.pool.camera(name):
            known["camera"] = camera
        if name in self.pool.labels:
            known["label"] = self.pool.labels[name].count
        return task(name, address, known, self.guesses.get(name), self.heads)


def write_tasks(names: Sequence[str], maker: TaskMaker, path: Path) -> None:
    """Writes tasks that hold their pictures, so that any server can import them; and beside them
    the labelling configuration, as .xml. Raises UserError for a picture that cannot be read.
    """
    tasks = []
    for name in names:
        kind, content = _browser_picture(maker.pool.path(name))
        address = f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
        tasks.append(maker.make(name, address))
    zones = [maker.zone] if maker.zone else []
    path.with_suffix(".xml").write_text(form(maker.heads, zones), encoding="utf-8")
    write_json(path, tasks)


def open_project(
    server: StudioServer, title: str, heads: bool, zone: str | None = None
) -> StudioProject:
    """The project of this title, whose form asks for what is wanted; raises UserError.

    A form never asks for less than before: then Label Studio would refuse it.
    """
    zones = {zone} if zone else set()
    project = server.find_project(title)
    if project is None:
        return server.create_project(title, form(heads, zones))
    if asks_for(project.config, heads, zones):
        return project
    wanted = form(heads or asks_for_heads(project.config), zones | zones_asked(project.config))
    return server.configure(project, wanted)


def sent_frames(tasks: Sequence[Mapping[str, Any]]) -> dict[str, bool]:
    """The frames in a project, and whether they wait for an answer."""
    return {
        entry["data"]["frame"]: not entry["annotations"]
        for entry in tasks
        if isinstance(entry["data"].get("frame"), str)
    }


def send_frames(
    names: Sequence[str], maker: TaskMaker, server: StudioServer, project: StudioProject
) -> None:
    """Uploads the frames and adds their tasks, in this order; raises UserError."""
    waiting: list[dict[str, Any]] = []
    for number, name in enumerate(tqdm(names, desc="label", unit="frame", disable=None), start=1):
        kind, content = _browser_picture(maker.pool.path(name))
        stem = PurePosixPath(name).stem
        waiting.append(maker.make(name, server.upload(project, f"{stem}.{kind}", content)))
        if len(waiting) == BATCH or number == len(names):
            server.add_tasks(project, waiting)
            waiting = []


def _browser_picture(path: Path) -> tuple[str, bytes]:
    """The kind and the bytes of a picture that browsers show; raises UserError."""
    picture = read_image(path)
    if kind := _SHOWN_BY_BROWSERS.get(path.suffix.lower()):
        return kind, path.read_bytes()
    buffer = BytesIO()
    picture.save(buffer, "PNG")
    return "png", buffer.getvalue()
