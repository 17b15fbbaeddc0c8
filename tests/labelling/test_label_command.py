"""`llava-dvc label` from its command line, without a server."""

import json
from pathlib import Path

import pytest

from llava_dvc.cli import main
from llava_dvc.labelling.studio_tasks import asks_for
from tests.conftest import ROOT
from tests.labelling.studio_talk import NAMES, draw_frames


@pytest.fixture
def label(tmp_path, monkeypatch, capsys):
    """Runs `llava-dvc label` in a repository of four frames; returns all that it says."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LABEL_STUDIO_API_KEY", raising=False)
    draw_frames(tmp_path / "data")
    (tmp_path / "params.yaml").write_bytes((ROOT / "presets" / "tiny.yaml").read_bytes())

    def run(*arguments: str) -> str:
        monkeypatch.setattr("sys.argv", ["llava-dvc", "label", *arguments])
        try:
            main()
        except SystemExit as end:
            return str(end.code or "")
        return capsys.readouterr().out

    return run


def test_the_first_frames_are_labelled_without_a_model(label):
    said = label("--file", "tasks.json", "--number", "3")
    assert "models/adapter: not trained yet. The tasks have no counts of a model.\n" in said
    assert "tasks.json: 3 tasks. In Label Studio, paste tasks.xml under" in said
    tasks = json.loads(Path("tasks.json").read_text())
    assert len({task["data"]["frame"] for task in tasks} & set(NAMES)) == 3
    assert all("predictions" not in task for task in tasks)


def test_the_form_asks_for_a_zone(label):
    label("--file", "tasks.json", "--zone", "tills", "--points")
    assert asks_for(Path("tasks.xml").read_text(), heads=True, zones=["tills"])


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("--to", "x", "--zone", " "), "--zone: is blank. Name the zone, such as tills."),
        ((), "label: needs --to URL, --from URL, --file FILE.json or --doubtful."),
        (("--to", "x", "--number", "0"), "--number: is 0. Give a number of frames, at least 1."),
        (("--file", "tasks.txt"), "--file: is tasks.txt. Choose a name that ends in .json."),
        (("--doubtful",), "data/labels.csv: has no labels that could be doubtful."),
        (("--to", "localhost:8080"), "localhost:8080: is no address of a server. Give one such"),
        (("--file", "a.json", "--adapter", "./no"), "no/recipe.json: not found"),
    ],
)
def test_a_mistake_is_one_line(label, arguments, line):
    said = label(*arguments)
    assert said.removeprefix("error: ").startswith(line)
    assert "\n" not in said.strip()
    assert not Path("a.json").exists()


def test_frames_that_are_missing(label, tmp_path):
    labels = tmp_path / "data" / "labels.csv"
    labels.write_text("frame,count\nhall/gone.jpg,3\n")
    assert "labels.csv:2: frame data/frames/hall/gone.jpg does not exist." in label("--doubtful")
    labels.write_text("frame,count\n" + "".join(f"{name},3\n" for name in NAMES))
    assert "data/frames: every frame has a label or was sent." in label("--file", "a.json")
    (tmp_path / "data").rename(tmp_path / "elsewhere")
    assert "data/frames: not found. Put frames there, or write" in label("--file", "a.json")
