"""Zones drawn in Label Studio: percent to pixels, cameras, and what is refused."""

from types import SimpleNamespace

import pytest

from llava_dvc.data.imports.annotations import ImportChoices
from llava_dvc.data.imports.formats.label_studio import read_label_studio
from llava_dvc.data.imports.import_files import ImportFiles, PictureIndex
from llava_dvc.errors import UserError
from llava_dvc.files import write_json
from llava_dvc.labelling.bring_answers import StudioSource, bring_answers
from llava_dvc.labelling.bring_zones import bring_zones
from llava_dvc.labelling.label_pool import read_pool
from llava_dvc.labelling.studio_tasks import form
from tests.labelling.studio_talk import NAMES, SIZE, ZONE, draw_frames

SQUARE = [[25, 50], [75, 50], [75, 100], [25, 100]]
PIXELS = [[16, 24], [48, 24], [48, 48], [16, 48]]


@pytest.fixture
def pool(tmp_path):
    draw_frames(tmp_path / "data")
    (tmp_path / "data" / "labels.csv").write_text(f"frame,count,camera\n{NAMES[0]},1,north\n")
    return read_pool(tmp_path / "data", ())


def drawn(points=SQUARE, name="tills", **more):
    return {**ZONE, **SIZE, "value": {"points": points, "polygonlabels": [name]}, **more}


def tasks(*results, frame=NAMES[0], time="2026-01-01", **more):
    annotation = {"result": list(results), "updated_at": time, **more}
    return [{"id": 1, "data": {"frame": frame, "image": frame}, "annotations": [annotation]}]


def test_a_zone_belongs_to_the_camera_of_its_frame(pool):
    hall = tasks(drawn(name="door"), frame=NAMES[2])
    skipped = tasks(drawn(name="shelf"), was_cancelled=True)
    found = bring_zones(pool, [*tasks(drawn()), *hall, *skipped], lambda _: None)
    assert found == {"tills": {"north": PIXELS}, "door": {"*": PIXELS}}


def test_a_skipped_frame_with_a_zone_is_skipped(pool):
    """A stand-in for the server: the recorded conversation has no such answer."""
    skipped = tasks(drawn(), frame=NAMES[1], was_cancelled=True)
    server = SimpleNamespace(url="http://studio", export=lambda _: skipped)
    source, said = StudioSource(server, SimpleNamespace(id=1, config=form(heads=True))), []
    assert not bring_answers(pool, source, said.append)
    assert said[0] == "Tasks that their annotators skipped: 1.\n"


@pytest.mark.parametrize("turn", [1, -1])
def test_the_newest_counts_and_what_is_there_stays(pool, turn):
    said = []
    both = [*tasks(drawn([[0, 0], [50, 0], [0, 50]]), time="2025-12-31"), *tasks(drawn())][::turn]
    write_json(pool.data / "zones.json", {"exit": {"*": PIXELS}})
    zones = bring_zones(pool, both, said.append)
    assert zones == {"exit": {"*": PIXELS}, "tills": {"north": PIXELS}}
    write_json(pool.data / "zones.json", {"tills": {"north": PIXELS[:3]}})
    assert bring_zones(pool, both, said.append) is None
    assert "north has another outline than in Label Studio, and stays." in said[-1]


@pytest.mark.parametrize(
    ("results", "words"),
    [
        ([drawn(SQUARE[:2])], "at least 3 items"),
        ([drawn([[0, 0], [50, 50], [50, 0], [0, 50]])], "tills for camera north crosses itself"),
        ([drawn([[0, 0], [101, 0], [0, 50]])], "zone tills: has a corner at 64.64, 0, but the"),
        ([drawn([[0, 0], ["x", 0], [0, 50]])], "a corner is 'x', expected a number."),
        ([drawn(original_width=640)], "zone tills is drawn on 640x48 pixels, but the frame has 64"),
        ([drawn(image_rotation=90)], "zone tills is drawn on a turned picture. Turn it back."),
        ([drawn(), drawn()], "zone tills is drawn twice. Delete one of the two."),
        ([drawn(name=" ")], "the zone's label is ' ', expected a name."),
    ],
)
def test_a_zone_that_cannot_be_used_is_one_line(pool, results, words):
    with pytest.raises(UserError) as caught:
        bring_zones(pool, tasks(*results), lambda _: None)
    assert str(caught.value).startswith(f"task 1: {NAMES[0]}: ")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (pool.data / "zones.json").exists()


def test_a_broken_file_is_not_replaced(pool):
    (pool.data / "zones.json").write_text("{")
    with pytest.raises(UserError, match=r"zones\.json: not JSON \(.*Correct it, or delete it\."):
        bring_zones(pool, tasks(drawn()), lambda _: None)


def test_an_import_by_hand_counts_no_zone_as_a_person(pool, tmp_path):
    frames = pool.data / "frames"
    head = {"from_name": "heads", "value": {"x": 1, "y": 1, "keypointlabels": ["head"]}}
    write_json(tmp_path / "export.json", tasks(drawn(), head))
    files = ImportFiles(tmp_path, [], PictureIndex(frames, [frames / NAMES[0]]))
    reading = read_label_studio(files, [tmp_path / "export.json"], ImportChoices())
    (record,) = reading.records
    assert [mark.category for mark in record.answers[0].marks] == ["head"]
    assert reading.notes == ["Zones are left out: 1. `llava-dvc label --from` brings them."]
