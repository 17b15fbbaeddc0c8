"""Frames without a label in an import, and what an import keeps of the data before it."""

import json
import shutil
import subprocess

import pytest
from dvc.repo import Repo

from llava_dvc.data.imports.annotations import ImportChoices
from llava_dvc.data.imports.import_source import ImportPlan, import_source
from llava_dvc.data.imports.staged_frames import STRICT, ImportRules
from llava_dvc.data.imports.unsaved_data import require_saved
from llava_dvc.errors import UserError
from tests.conftest import frame

ALLOW = ImportRules(allow_unlabelled=True)


@pytest.fixture
def source(tmp_path):
    """Three frames, of which the second has no label."""
    folder = tmp_path / "source"
    (folder / "frames").mkdir(parents=True)
    for name in "abc":
        frame(ord(name)).save(folder / "frames" / f"{name}.png")
    (folder / "labels.csv").write_text("frame,count\na.png,1\nc.png,3\n")
    return folder


@pytest.fixture
def load(tmp_path):
    """Imports, and returns what was said; `load.files` are the frames in data/."""

    def call(source, rules=STRICT, **choices):
        said = []
        chosen = ImportChoices(keep_unlabelled=rules.allow_unlabelled, **choices)
        plan = ImportPlan(source, None, None, chosen, rules)
        import_source(plan, tmp_path / "data", said.append)
        call.files = sorted(path.name for path in (tmp_path / "data" / "frames").rglob("*.png"))
        return "".join(said)

    return call


def test_a_frame_without_label_stays_where_it_is_allowed(source, load, tmp_path):
    with pytest.raises(UserError, match=r"frames/b\.png: has no label in .*data\.unlabelled to al"):
        load(source)
    load(source, ALLOW)
    assert load.files == ["a.png", "b.png", "c.png"]
    assert (tmp_path / "data/labels.csv").read_text() == "frame,count\na.png,1\nc.png,3\n"
    (source / "frames" / "notes.txt").touch()
    with pytest.raises(UserError, match=r"frames/notes\.txt: has no label in"):
        load(source, ALLOW)


def test_the_other_remedy_of_the_error_is_true_too(source, load):
    """data.exclude may also have frames of other data."""
    load(source, ImportRules(exclude=("b.png", "elsewhere.png")))
    assert load.files == ["a.png", "b.png", "c.png"]


def test_frames_in_the_form_of_mall(source, load, tmp_path):
    for number, name in enumerate("abc", start=1):
        path = source / "frames" / f"{name}.png"
        path.rename(path.with_name(f"seq_{number:06d}.jpg"))
    (source / "labels.csv").write_text("id,count\n1,1\n3,3\n")
    with pytest.raises(UserError, match=r"number 2 has only a frame.*data\.unlabelled to allow in"):
        load(source)
    load(source, ALLOW)
    assert (tmp_path / "data/frames/seq_000002.jpg").exists()
    (source / "labels.csv").write_text("id,count\n1,1\n4,3\n")
    with pytest.raises(UserError, match=r"number 4 has only a label.*Add what is missing\.$"):
        load(source, ALLOW)


def test_pictures_without_annotation(source, load, tmp_path):
    """Of a task without answer, and those that no task names."""
    tasks = [
        {"id": 1, "data": {"image": "a.png"}, "annotations": [{"result": [
            {"from_name": "people", "value": {"number": 4}}]}]},
        {"id": 2, "data": {"image": "b.png"}, "annotations": []},
    ]  # fmt: skip
    (source / "labels.csv").unlink()
    (source / "export.json").write_text(json.dumps(tasks))
    said = load(source, ALLOW, empty="skip")
    assert "Pictures without annotation stay without a label: 1.\n" in said
    assert "Pictures that no annotation names stay without a label: 1.\n" in said
    assert load.files == ["a.png", "b.png", "c.png"]
    assert (tmp_path / "data/labels.csv").read_text() == "frame,count\na.png,4\n"
    assert "Pictures without annotation are left out: 1.\n" in load(source, empty="skip")
    assert load.files == ["a.png"]


def test_what_label_studio_said_is_kept_for_frames_that_stay(source, load, tmp_path):
    """Without it, a correction there would look older than the label."""
    load(source, ALLOW)
    record = tmp_path / "data" / "label_studio.csv"
    rows = ["frame,count,time,task", "a.png,1,2026,t1", "c.png,3,2026,t2", "gone.png,3,2026,t3"]
    record.write_text("\n".join(rows))
    frame(7).save(source / "frames" / "c.png")
    load(source, ALLOW)
    assert record.read_text().splitlines() == rows[:2]
    record.write_text("frame,count\n")
    with pytest.raises(UserError, match=r"label_studio\.csv: cannot be read"):
        load(source, ALLOW)


def test_files_that_only_data_has_are_not_deleted(source, tmp_path):
    """In one test, because DVC takes its time."""
    repo, data = tmp_path / "repo", tmp_path / "repo" / "data"
    shutil.copytree(source, data)
    require_saved(data)  # no repository of DVC
    Repo.init(repo, no_scm=True)
    with pytest.raises(UserError, match=r"^data/frames/a\.png and 3 more files: not in DVC, and"):
        require_saved(data)
    Repo(repo).add(str(data))
    (data / "messages.txt").touch()
    require_saved(data)
    (data / "labels.csv").write_text("frame,count\na.png,2\n")
    with pytest.raises(UserError, match=r"^data/labels\.csv: not in DVC, and this import would"):
        require_saved(data)


def test_a_second_import_before_a_commit_deletes_nothing_either(source, tmp_path):
    """DVC has the data of the first one, and git has an older data.dvc."""
    repo, data = tmp_path / "repo", tmp_path / "repo" / "data"
    shutil.copytree(source, data)
    subprocess.run(["git", "init", "--quiet", repo], check=True)
    Repo.init(repo)
    Repo(repo).add(str(data))
    commit = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "-am", "a"]
    subprocess.run(["git", "add", "."], cwd=repo, check=True)
    subprocess.run(commit, cwd=repo, check=True)
    (data / "labels.csv").write_text("frame,count\na.png,2\n")
    Repo(repo).add(str(data))
    require_saved(data)
