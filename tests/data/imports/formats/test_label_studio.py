"""The tasks have the form of Label Studio's JSON export. The JSON-MIN entries are what the
converter of label-studio-sdk 2.1 makes of them.
"""

import copy
import json

import pytest

from tests.data.imports.formats.conftest import picture


def region(key, name, kind, value):
    sizes = {"original_width": 64, "original_height": 48, "image_rotation": 0}
    link = {"id": key, "from_name": name, "to_name": "image", "type": kind, "origin": "manual"}
    return {**sizes, "value": value, **link}


def rectangle(key, x, y, width, height, label="person"):
    value = {"x": x, "y": y, "width": width, "height": height, "rotation": 0}
    return region(key, "box", "rectanglelabels", value | {"rectanglelabels": [label]})


def head(key, x, y):
    value = {"x": x, "y": y, "width": 0.5, "keypointlabels": ["person"]}
    return region(key, "heads", "keypointlabels", value)


def number(value, name="people"):
    link = {"id": "n", "from_name": name, "to_name": "image", "type": "number", "origin": "manual"}
    return {"value": {"number": value}, **link}


def choice(value, name="choice"):
    link = {"id": "c", "from_name": name, "to_name": "image", "type": "choices"}
    return {"value": {"choices": [value]}, **link}


def annotation(*results, by=1, **more):
    base = {"id": 10 + by, "completed_by": by, "was_cancelled": False, "ground_truth": False}
    times = {"created_at": "2026-01-01T00:00:00Z", "updated_at": "2026-01-01T00:00:00Z"}
    return {**base, "result": list(results), **times, "lead_time": 4.5, **more}


def task(key, *annotations, image=None, **data):
    image = image or f"/data/upload/1/0a1b2c3d-a{key}.jpg"
    shown = {"predictions": [{"result": [number(99)]}], "drafts": [], "meta": {}}
    return {"id": key, "annotations": list(annotations), **shown, "data": {"image": image, **data}}


BOXES = annotation(
    rectangle("r1", 15.625, 100 / 12, 12.5, 500 / 12),  # of 64x48: 10, 4, 8, 20
    rectangle("r2", 46.875, 50 / 3, 15.625, 62.5),
    rectangle("r3", 0, 0, 10, 10, label="car"),
)
RESULT = {"a1.jpg": (2, [(14, 6), (35, 11)])}


@pytest.fixture
def write(source):
    for name in ("a1.jpg", "a2.jpg", "a3.jpg"):
        picture(source / "frames" / name)

    def write_json(value):
        path = source / "export.json"
        path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")

    return write_json


def test_boxes_arrive(write, load):
    write([task(1, BOXES)])
    assert load() == RESULT


def test_points_numbers_and_choices_arrive(write, load):
    weather = choice("sunny", "weather")
    write(
        [
            task(1, annotation(head("k1", 50, 25), head("k2", 75, 75), number(2), weather)),
            task(2, annotation(number(7), weather)),
            task(3, annotation(number(0))),
        ]
    )
    assert load() == {"a1.jpg": (2, None), "a2.jpg": (7, None), "a3.jpg": (0, None)}
    write([task(1, annotation(head("k1", 50, 25), head("k2", 75, 75), number(2), weather))])
    assert load() == {"a1.jpg": (2, [(32, 12), (48, 36)])}
    write([task(1, annotation(choice("12")))])
    assert load() == {"a1.jpg": (12, None)}


def test_the_median_of_several_annotators_is_taken_and_their_difference_said(write, load):
    counts = [annotation(number(n), by=n) for n in (3, 9, 4)]
    pair = [annotation(head("k", 50, 50)), annotation(by=2)]
    write([task(1, *counts), task(2, annotation(number(5)), annotation(number(6)))])
    assert load() == {"a1.jpg": (4, None), "a2.jpg": (6, None)}
    note = "several annotators: 2. Their counts differ by 3.5 on average, at most by 6 ("
    assert note in "".join(load.lines)
    write([task(1, *pair)])
    assert load() == {"a1.jpg": (1, [(32, 24)])}


def test_cancelled_annotations_do_not_count(write, load):
    write(
        [
            task(1, annotation(number(3)), annotation(number(50), was_cancelled=True)),
            task(2, annotation(was_cancelled=True)),
        ]
    )
    assert load() == {"a1.jpg": (3, None)}
    assert "Tasks that their annotators skipped are left out: 1.\n" in load.lines


def test_the_ground_truth_wins(write, load):
    write([task(1, annotation(number(9)), annotation(number(5), ground_truth=True))])
    assert load() == {"a1.jpg": (5, None)}


def test_a_task_without_annotation_is_asked_for_and_a_prediction_is_none(write, refuse, load):
    write([task(1, BOXES), task(2)])
    assert "1 picture has no annotation, such as a2.jpg. Add --empty zero" in refuse()
    assert load(empty="skip") == RESULT


def test_an_empty_annotation_means_nobody_unless_numbers_are_typed(write, load, refuse):
    write([task(1, BOXES), task(2, annotation())])
    assert load()["a2.jpg"] == (0, [])


def test_an_annotation_without_number_is_asked_for(write, refuse):
    write([task(1, annotation(number(3))), task(2, annotation())])
    assert "1 picture has no annotation, such as a2.jpg" in refuse()


@pytest.mark.parametrize(
    "image",
    [
        "/data/local-files/?d=cam%201/a1.jpg",
        "s3://bucket/cam%201/a1.jpg",
        "https://example.org/cam%201/a1.jpg?X-Amz-Signature=3f",
        "cam 1/a1.jpg",
    ],
)
def test_pictures_are_found_by_the_path_in_their_address(write, load, source, image):
    picture(source / "cam 1" / "a1.jpg", 90)
    write([task(1, annotation(number(3)), image=image)])
    assert load() == {"a1.jpg": (3, None)}
    assert (source / "cam 1" / "a1.jpg").read_bytes() == (
        source.parent / "data" / "frames" / "a1.jpg"
    ).read_bytes()


def test_cameras_arrive(write, load, tmp_path):
    write([task(1, annotation(number(3)), camera="door")])
    load()
    assert (tmp_path / "data/labels.csv").read_text() == "frame,count,camera\na1.jpg,3,door\n"


TURNED = {"x": 37.5, "y": 25, "width": 12.5, "height": 50, "rotation": 0}
SHAPES = {
    "rectangle": (TURNED, (28, 14.4)),
    "ellipse": ({"x": 50, "y": 50, "radiusX": 10, "radiusY": 25, "rotation": 0}, (32, 14.4)),
    "turned rectangle": (TURNED | {"rotation": 90}, (12, 12.8)),
    "turned ellipse": (
        {"x": 50, "y": 50, "radiusX": 12.5, "radiusY": 25, "rotation": 90},
        (32, 17.6),
    ),
    "polygon": ({"points": [[25, 25], [50, 25], [50, 75]], "closed": True}, (24, 14.4)),
    "keypoint": ({"x": 50, "y": 25, "width": 0.4}, (32, 12)),
}


@pytest.mark.parametrize("kind", SHAPES)
def test_shapes_without_label_are_people(write, load, kind):
    value, point = SHAPES[kind]
    """A rectangle turns about its upper left corner: then this one is (0, 12) to (24, 20)."""
    write([task(1, annotation(region("r", "mark", kind, value)))])
    (found,) = load()["a1.jpg"][1]
    assert found == pytest.approx(point)


def minimal(key, annotation_id=11, **results):
    """An entry of JSON-MIN, in the converter's order of keys."""
    times = {"created_at": "2026-01-01T00:00:00Z", "updated_at": "2026-01-01T00:00:00Z"}
    data = {"shift": "12", "image": f"/data/upload/1/0a1b2c3d-a{key}.jpg", "id": key}
    return {
        **data,
        **results,
        **{"annotator": 1, "annotation_id": annotation_id, **times, "lead_time": 4.5},
    }


def test_json_min_gives_the_same(write, load, refuse):
    boxes = [
        {**entry["value"], "original_width": 64, "original_height": 48} for entry in BOXES["result"]
    ]
    write([minimal(1, box=boxes), minimal(2, None)])
    assert "1 picture has no annotation, such as a2.jpg" in refuse()
    assert load(empty="skip") == RESULT
    write([minimal(1, people=[{"number": 3}]), minimal(1, 12, people=[{"number": 4}])])
    assert load() == {"a1.jpg": (4, None)}
    write([minimal(1, choice="3", comment="wet")])
    assert load() == {"a1.jpg": (3, None)}


def changed(**values):
    value = copy.deepcopy(BOXES["result"][0])
    value["value"] |= values
    return [task(1, annotation(value))]


BAD = {
    "not JSON": ("[", "export.json: is not valid JSON"),
    "an object": ("{}", "the file is '{}', expected a list"),
    "other JSON": ([{"name": "x"}], "entry 1 is no task of Label Studio"),
    "an entry": ([task(1, BOXES), 3], "entry 2 is '3', expected an object"),
    "twice": ([task(1, BOXES), task(1, BOXES)], "task 1 is there twice"),
    "data": ([task(1, BOXES) | {"data": []}], "task 1: data is '[]', expected an object"),
    "no picture": ([task(1, BOXES, image="a.mp4")], "task 1: its data names 0 pictures"),
    "two pictures": ([task(1, BOXES, other="b.png")], "task 1: its data names 2 pictures"),
    "missing": ([task(9, BOXES)], "a9.jpg is not among the 3 pictures"),
    "annotations": ([task(1) | {"annotations": 3}], "task 1: annotations is '3', expected a list"),
    "half": (
        [task(1, annotation(number(2.5)))],
        "task 1: people is '2.5', expected a whole number",
    ),
    "negative": ([task(1, annotation(number(-1)))], "people is '-1', expected a whole number"),
    "range": ([task(1, annotation(choice("10+")))], "task 1: choice is '10+', expected a number"),
    "two numbers": ([task(1, annotation(number(1), number(2)))], "people has two numbers"),
    "contradiction": (
        [task(1, annotation(number(3), head("k", 50, 50)))],
        "the count is 3, but 1 people are marked. Correct one of the two",
    ),
    "fields": (
        [task(1, annotation(number(1), number(2, "staff")))],
        "has the categories people, staff. Say which of them to count: --category 'people'",
    ),
    "words": (changed(x="left"), "task 1: a position is 'left', expected a number"),
    "no width": (changed(width=None), "a position is 'None', expected a number"),
    "no area": (changed(width=0), "a box of 'person' has the corners"),
    "outside": (changed(x=120), "lies outside its 64x48 pixels"),
    "labels": (changed(rectanglelabels=["a", "b"]), "has the labels \"['a', 'b']\", expected one"),
    "size": (
        [task(1, annotation(BOXES["result"][0] | {"original_width": 640}))],
        "the annotation is for 640x48 pixels, but the picture has 64x48",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_nothing_is_written(write, refuse, case):
    value, expected = BAD[case]
    write(value)
    text = refuse(format="label-studio")
    assert expected in text
    assert len(text.splitlines()) == 1
