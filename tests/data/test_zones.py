"""The areas of data/zones.json: what is read, and what a frame looks like in one."""

import json
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from llava_dvc.conversation import PLACEHOLDER, Conversation
from llava_dvc.data.data_errors import DataError
from llava_dvc.data.frames import read_frames
from llava_dvc.data.prepare import build_dataset
from llava_dvc.data.split import FrameSplit
from llava_dvc.data.zones import OUTSIDE, frames_in_zone, paint_outside, read_zones
from llava_dvc.errors import UserError
from tests.conftest import frame

SQUARE = [[10, 10], [30, 10], [30, 40], [10, 40]]
CORNER = [[0, 0], [64, 0], [0, 48]]


@pytest.fixture
def data(tmp_path):
    """Three frames of 64x48 pixels of two cameras, with three, no and one person."""
    folder = tmp_path / "data"
    (folder / "frames").mkdir(parents=True)
    for number in (1, 2, 3):
        frame(number).save(folder / "frames" / f"{number}.png")
    (folder / "labels.csv").write_text("frame,count,camera\n1.png,3,a\n2.png,0,b\n3.png,1,b\n")
    points = "1.png,10.5,10.5\n1.png,29,39\n1.png,31,20\n3.png,64,48\n"
    (folder / "points.csv").write_text(f"frame,x,y\n{points}")
    return folder


def write(data, zones) -> None:
    (data / "zones.json").write_text(zones if isinstance(zones, str) else json.dumps(zones))


def in_zone(data, name):
    return frames_in_zone(read_frames(data, exclude=()), data, name)


def problem(data, zones, name="tills") -> str:
    write(data, zones)
    with pytest.raises(DataError) as caught:
        in_zone(data, name)
    assert len(caught.value.problems) == 1
    return str(caught.value)


def test_people_are_counted_by_their_points(data):
    write(data, {"tills": {"*": SQUARE}, "door": {"a": CORNER, "b": SQUARE}})
    frames, zones = in_zone(data, "tills")
    assert [one.count for one in frames] == [2, 0, 0]
    assert frames[0].points == [(10.5, 10.5), (29.0, 39.0)]
    assert zones.name == "tills"
    assert zones.polygon("door", "a") == tuple((x, y) for x, y in CORNER)
    by_camera, _ = in_zone(data, "door")
    assert [one.count for one in by_camera] == [2, 0, 0]  # 29, 39 is beyond the slope
    whole, none = in_zone(data, None)
    assert ([one.count for one in whole], none) == ([3, 0, 1], None)


def test_a_point_on_the_far_edge_is_in_the_last_pixel(data):
    write(data, {"tills": {"*": [[32, 24], [64, 24], [64, 48], [32, 48]]}})
    frames, _ = in_zone(data, "tills")
    assert [one.count for one in frames] == [0, 0, 1]


def test_without_points_the_label_is_that_of_the_zone(data):
    (data / "points.csv").unlink()
    write(data, {"tills": {"*": SQUARE}})
    frames, _ = in_zone(data, "tills")
    assert [one.count for one in frames] == [3, 0, 1]


def test_prepared_frames_have_one_colour_outside(data):
    write(data, {"tills": {"*": SQUARE}})
    frames, _ = in_zone(data, "tills")
    asked = [Conversation("How many?", PLACEHOLDER)]
    row = build_dataset(frames, asked, FrameSplit([0], [1], [2], []), 0)["train"][0]
    found, whole = np.array(row["image"]), np.array(frame(1))
    assert (found[10:41, 10:31] == whole[10:41, 10:31]).all()
    outside = np.ones((48, 64), dtype=bool)
    outside[10:41, 10:31] = False
    assert (found[outside] == OUTSIDE).all()
    assert row["count"] == len(row["points"]) == 2


def test_the_colour_is_that_of_the_border(encoder):
    mean = encoder.processor.image_processor.image_mean
    assert tuple(int(level * 255) for level in mean) == OUTSIDE


def test_painting_twice_is_painting_once():
    polygon = tuple((float(x), float(y)) for x, y in SQUARE)
    once = paint_outside(frame(1), polygon)
    assert once.tobytes() == paint_outside(once, polygon).tobytes()
    file = BytesIO()
    once.save(file, "PNG")
    assert Image.open(file).tobytes() == once.tobytes()


@pytest.mark.parametrize(
    ("zones", "reason"),
    [
        ("{", "not JSON: Expecting"),
        ("[]", "zones.json: Input should be a valid dictionary."),
        ({}, "has no zone tills, which data.zone asks for. It has: none."),
        ({"door": {"*": SQUARE}}, "has no zone tills, which data.zone asks for. It has: door."),
        ({"tills": SQUARE}, "tills: Input should be a valid dictionary."),
        ({"tills": {"*": SQUARE[:2]}}, r"tills.*: Tuple should have at least 3 items"),
        ({"tills": {"*": [[1, 2, 3]] * 3}}, "tills.*.0: Tuple should have at most 2 items"),
        ({"tills": {"*": [["a", 2]] * 3}}, "tills.*.0.0: Input should be a valid number"),
        ({"tills": {"*": [["1", 2]] * 3}}, "tills.*.0.0: Input should be a valid number"),
        ({"tills": {"*": [[1, float("nan")]] * 3}}, "tills.*.0.1: Input should be a finite number"),
        ({"tills": {"*": [[1, 2]] * 101}}, "tills.*: Tuple should have at most 100 items"),
        (
            {"tills": {"*": [[0, 0], [9, 9], [9, 0], [0, 9]]}},
            "the outline of tills for camera * crosses itself",
        ),
    ],
)
def test_a_file_that_is_no_zones_is_one_line(data, zones, reason):
    assert reason in problem(data, zones)


def test_a_missing_file_is_named(data):
    with pytest.raises(DataError, match=r"zones\.json: not found, but data\.zone is tills\. Write"):
        in_zone(data, "tills")


def test_a_camera_without_an_outline_is_named(data):
    text = problem(data, {"tills": {"b": SQUARE}})
    assert "1.png: zone tills: has no outline for the camera a, only for b. Name" in text


def test_every_frame_that_is_too_small_is_named(data):
    write(data, {"tills": {"*": [[0, 0], [65, 0], [0, 40]]}})
    with pytest.raises(DataError) as caught:
        in_zone(data, "tills")
    assert [one.frame for one in caught.value.problems] == ["1.png", "2.png", "3.png"]
    assert "has a corner at 65, 0, but the frame has 64 x 48 pixels. Give" in str(caught.value)


def test_a_zone_that_is_not_there_is_named(data):
    write(data, {"tills": {"b": SQUARE}})
    zones = read_zones(data / "zones.json", "tills")
    with pytest.raises(UserError, match=r"zone door: the adapter does not know it\. Choose"):
        zones.polygon("door", "b")
    with pytest.raises(UserError, match="zone tills: has no outline for every camera, only for b"):
        zones.polygon()
