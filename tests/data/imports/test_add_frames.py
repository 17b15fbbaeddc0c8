"""`import --add`: what is there stays."""

import pytest

from llava_dvc.data.frames import read_frames
from llava_dvc.data.imports.annotations import ImportChoices
from llava_dvc.data.imports.import_source import ImportPlan, import_source
from llava_dvc.data.imports.staged_frames import ImportRules
from llava_dvc.errors import UserError
from llava_dvc.serving.page.corrections import CorrectionFolder
from tests.conftest import frame
from tests.serving.requests import encoded

ALLOW = ImportRules(allow_unlabelled=True)


def fill(folder, labels, points=None):
    """A folder of our own form, from {name: label}; the first letter of the name is the picture."""
    (folder / "frames").mkdir(parents=True, exist_ok=True)
    for name in labels:
        frame(ord(name[0])).save(folder / "frames" / name)
    rows = [f"{name},{label}" for name, label in labels.items() if label is not None]
    header = "frame,count,camera" if any("," in row[row.index(",") + 1 :] for row in rows) else ""
    (folder / "labels.csv").write_text("\n".join([header or "frame,count", *rows, ""]))
    if points is not None:
        rows = [f"{name},{x},{y}" for name, x, y in points]
        (folder / "points.csv").write_text("\n".join(["frame,x,y", *rows, ""]))
    return folder


@pytest.fixture
def data(tmp_path):
    return fill(tmp_path / "data", {"a.png": 1, "b.png": 2, "u.png": None})


@pytest.fixture
def add(data, tmp_path):
    """Adds a source; returns what was said."""

    def call(source=tmp_path / "source", rules=ALLOW, frames=None, **choices):
        said = []
        plan = ImportPlan(source, None, frames, ImportChoices(**choices), rules, add=True)
        import_source(plan, data, said.append)
        return "".join(said)

    return call


@pytest.fixture
def refuse(add, data):
    """The text of the error. Nothing may be changed."""

    def call(*args, **options):
        before = {path: path.read_bytes() for path in data.rglob("*") if path.is_file()}
        with pytest.raises(UserError) as caught:
            add(*args, **options)
        assert {path: path.read_bytes() for path in data.rglob("*") if path.is_file()} == before
        return str(caught.value)

    return call


def labels_of(data):
    return (data / "labels.csv").read_text().splitlines()[1:]


def test_new_frames_and_labels_come_to_those_that_are_there(add, data, tmp_path):
    (data / "zones.json").write_text("{}")
    (data / "label_studio.csv").write_text("frame,count,time,task\na.png,1,2026,t\n")
    fill(tmp_path / "source", {"a.png": 1, "c.png": 3, "u.png": 9})
    assert "Labels: 2 new, 1 equal to those in " in add()
    assert labels_of(data) == ["a.png,1", "b.png,2", "c.png,3", "u.png,9"]
    assert (data / "zones.json").exists()
    assert (data / "messages.txt").exists()
    assert (data / "label_studio.csv").read_text().count("\n") == 2
    before = (data / "labels.csv").read_bytes()
    assert "Labels: 0 new, 3 equal" in add()
    assert (data / "labels.csv").read_bytes() == before


def test_a_label_that_differs_stays_and_is_named(add, data, tmp_path):
    fill(tmp_path / "source", {"a.png": 8, "c.png": 3})
    assert "stay as they are in" in (said := add())
    assert "a.png (1, not 8). To take a new one, delete its line in labels.csv" in said
    assert labels_of(data)[0] == "a.png,1"
    (data / "labels.csv").write_text("frame,count\nb.png,2\n")
    assert "that differ" not in add()
    assert labels_of(data)[0] == "a.png,8"


def test_another_picture_of_the_same_name_is_refused(refuse, tmp_path):
    fill(tmp_path / "source", {"a.png": 1, "c.png": 3})
    frame(7).save(tmp_path / "source" / "frames" / "a.png")
    assert "frame a.png is another picture in " in refuse()


def test_a_picture_keeps_the_name_that_it_has(add, data, tmp_path):
    """A correction of the service is the same picture under another name."""
    folder = CorrectionFolder(tmp_path / "kept")
    folder.keep((data / "frames" / "u.png").read_bytes(), 5)
    folder.keep((data / "frames" / "a.png").read_bytes(), 6)
    folder.keep(encoded(frame(7), "PNG"), 7)
    folder.close()
    assert "a.png (1, not 6)" in add(tmp_path / "kept")
    assert labels_of(data)[1:] == ["a.png,1", "b.png,2", "u.png,5"]
    assert labels_of(data)[0].endswith(".png,7")
    assert len(read_frames(data, exclude=())) == 4


def test_typed_counts_of_frames_that_are_there(add, data, tmp_path):
    (tmp_path / "typed.csv").write_text("file,people\nu.png,4\n")
    columns = {"frame": "file", "count": "people"}
    add(tmp_path / "typed.csv", frames=data / "frames", columns=columns)
    assert labels_of(data) == ["a.png,1", "b.png,2", "u.png,4"]


def test_points_stay_known_of_all_frames_or_of_none(add, refuse, data, tmp_path):
    source = fill(tmp_path / "source", {"c.png": 1, "d.png": 0}, [("c.png", 3, 4)])
    assert "No points.csv is written" in add()
    assert not (data / "points.csv").exists()
    fill(data, {"a.png": 1, "c.png": 0}, [("a.png", 1, 2)])
    for name in ("b.png", "d.png"):
        (data / "frames" / name).unlink()
    fill(source, {"c.png": 5, "d.png": 1, "e.png": 0}, [*[("c.png", n, n) for n in range(5)],
         ("d.png", 6.5, 7)])  # fmt: skip
    add()
    assert (data / "points.csv").read_text() == "frame,x,y\na.png,1.0,2.0\nd.png,6.5,7.0\n"
    fill(source, {"f.png": 1})
    (source / "points.csv").unlink()
    assert "points.csv: has the people of all frames, but those of f.png are only" in refuse()


def test_cameras_are_known_of_all_frames_or_of_none(add, refuse, data, tmp_path):
    fill(tmp_path / "source", {"c.png": "3,door"})
    assert "labels.csv: some frames have a camera, but a.png, b.png have none." in refuse()
    (data / "labels.csv").write_text("frame,count,camera\na.png,1,x\nb.png,2,y\n")
    add()
    assert labels_of(data) == ["a.png,1,x", "b.png,2,y", "c.png,3,door"]


def test_the_zone_must_fit_the_new_frames(refuse, data, tmp_path):
    (data / "zones.json").write_text('{"till": {"*": [[0, 0], [60, 0], [60, 40]]}}')
    source = fill(tmp_path / "source", {"c.png": 3})
    frame(5, (40, 40)).save(source / "frames" / "c.png")
    said = refuse(rules=ImportRules(allow_unlabelled=True, zone="till"))
    assert "data/zones.json: c.png: " in said
    assert ".import" not in said


def test_there_must_be_something_to_add_to(refuse, data, tmp_path):
    fill(tmp_path / "source", {"c.png": 3})
    (data / "frames").rename(data.parent / "elsewhere")
    assert "data/frames: not found. Import without --add: there is nothing yet." in refuse()
