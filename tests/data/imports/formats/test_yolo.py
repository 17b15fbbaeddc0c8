"""The files are as datumaro 1.13 exports them (`yolo_ultralytics` and `yolo`), and as the converter
of label-studio-sdk 2.1 writes them.
"""

import pytest

from tests.data.imports.formats.conftest import picture

NAMES = "val: val.txt\ntrain: train.txt\nnames:\n  0: person\n  1: car\n"
FIRST = (
    "0 0.218750 0.291667 0.125000 0.416667\n"
    "0 0.546875 0.479167 0.156250 0.625000\n"
    "1 0.054688 0.072917 0.078125 0.104167\n"
)
SECOND = "0 0.390625 0.416667 0.156250 0.416667"
POINTS = [(14, 6), (35, 11)]
"""By hand, of 64x48 pixels: 0.21875 * 64 = 14, and 0.291667 * 48 - 20 / 2 + 20 / 10 = 6."""


def write(folder, files):
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


@pytest.fixture
def ultralytics(source):
    """Two splits, and a picture with an empty label file."""
    for name in ("train/a1.jpg", "train/a3.jpg", "val/a2.jpg"):
        picture(source / "images" / name)
    labels = {"train/a1.txt": FIRST, "train/a3.txt": "", "val/a2.txt": SECOND}
    write(source, {f"labels/{name}": text for name, text in labels.items()})
    write(source, {"data.yaml": NAMES, "train.txt": "./images/train/a1.jpg\n"})
    return source


def test_ultralytics_splits_arrive(ultralytics, load):
    expected = {"train/a1.jpg": (2, POINTS), "val/a2.jpg": (1, [(25, 12)])}
    assert load(empty="skip") == expected
    assert load(empty="zero") == expected | {"train/a3.jpg": (0, [])}


def test_folders_of_images_and_labels_in_each_split_arrive(source, load):
    for split, text in (("train", FIRST), ("valid", SECOND)):
        picture(source / split / "images" / "a1.jpg", 30 + len(text))
        write(source, {f"{split}/labels/a1.txt": text})
    write(source, {"data.yaml": "nc: 2\nnames: ['person', 'car']\n", "README.txt": "free\n"})
    found = {name: count for name, (count, _) in load().items()}
    assert found == {"train/images/a1.jpg": 2, "valid/images/a1.jpg": 1}


@pytest.mark.parametrize("form", ["empty file", "no file"])
def test_a_picture_without_label_is_asked_for(ultralytics, refuse, form):
    if form == "no file":
        (ultralytics / "labels/train/a3.txt").unlink()
    assert "1 picture has no annotation, such as a3.jpg. Add --empty zero if nobody" in refuse()


def test_a_picture_with_other_objects_alone_shows_nobody(ultralytics, load):
    write(ultralytics, {"labels/train/a3.txt": "1 0.5 0.5 0.1 0.1\n"})
    assert load()["train/a3.jpg"] == (0, [])


def test_darknets_form_arrives(source, load):
    picture(source / "obj_train_data" / "a1.jpg")
    write(source, {"obj_train_data/a1.txt": FIRST, "obj.names": "person\ncar\n"})
    write(source, {"obj.data": "classes = 2\n", "train.txt": "data/obj_train_data/a1.jpg\n"})
    assert load() == {"a1.jpg": (2, POINTS)}


def test_label_studios_export_arrives_with_pictures_of_another_folder(source, load, tmp_path):
    write(source, {"labels/0a1b2c3d-a1.txt": FIRST, "classes.txt": "person\ncar\n"})
    write(source, {"notes.json": '{"categories": [], "info": {}}'})
    picture(tmp_path / "recordings" / "a1.jpg")
    assert load(frames=tmp_path / "recordings") == {"a1.jpg": (2, POINTS)}


def test_outlines_and_keypoints_are_boxes(ultralytics, load):
    write(ultralytics, {"labels/train/a1.txt": "0 0.25 0.25 0.5 0.25 0.5 0.75 0.25 0.75\n"})
    assert load(empty="skip")["train/a1.jpg"] == (1, [(24, 14.4)])
    write(ultralytics, {"data.yaml": NAMES + "kpt_shape: [1, 3]\n"})
    write(ultralytics, {"labels/train/a1.txt": "0 0.5 0.5 0.25 0.5 0.5 0.4 2\n"})
    assert load(empty="skip")["train/a1.jpg"] == (1, [(32, 14.4)])


BAD = {
    "class": ({"labels/train/a1.txt": "2 0.5 0.5 0.1 0.1\n"}, "a1.txt:1: the class is '2', expect"),
    "class name": ({"labels/train/a1.txt": "person 0.5 0.5 0.1 0.1\n"}, "the class is 'person'"),
    "too few": ({"labels/train/a1.txt": "\n0 0.5 0.5 0.1\n"}, "a1.txt:2: 3 numbers follow"),
    "confidence": ({"labels/train/a1.txt": "0 0.5 0.5 0.1 0.1 0.9\n"}, "the confidence of a model"),
    "pixels": ({"labels/train/a1.txt": "0 32 24 8 20\n"}, "32 is not between 0 and 1. Divide pix"),
    "NaN": ({"labels/train/a1.txt": "0 nan 0.5 0.1 0.1\n"}, "a value is 'nan', expected a number"),
    "comma": ({"labels/train/a1.txt": "0 0,5 0.5 0.1 0.1\n"}, "a value is '0,5', expected a numb"),
    "no area": ({"labels/train/a1.txt": "0 0.5 0.5 0 0.1\n"}, "and no area. Correct it"),
    "twice": ({"labels/train/a1.txt": SECOND + "\n" + SECOND}, "two equal marks are at (0.3125,"),
    "UTF-16": ({"labels/train/a1.txt": None}, "a1.txt: is not UTF-8. Save it as UTF-8."),
    "no picture": ({"labels/train/b.txt": SECOND}, "picture"),
    "no names": ({"data.yaml": "nc: 2\n"}, "names is 'None', expected names of classes"),
    "nc": ({"data.yaml": NAMES + "nc: 3\n"}, "nc is 3, but there are 2 names. Correct it."),
    "no YAML": ({"data.yaml": "names: [a\n"}, "is not valid YAML"),
    "name": ({"data.yaml": "names: [1]\n"}, "names has 0: 1, expected a number and a name"),
    "bomb": ({"data.yaml": "a: &a [x, x]\nnames: [*a, *a]\n"}, "data.yaml: has an alias (*)"),
    "two names": ({"more.yaml": NAMES}, "names classes. Keep one of them."),
    "category": ({"data.yaml": "names: [rider, car]\n"}, "the categories car, rider. Say which"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_nothing_is_written(ultralytics, refuse, case):
    files, expected = BAD[case]
    write(ultralytics, {name: text for name, text in files.items() if text is not None})
    if None in files.values():
        (ultralytics / next(iter(files))).write_bytes("0 0.5".encode("utf-16"))
    text = refuse(format="yolo", empty="skip")
    assert expected in text
    assert len(text.splitlines()) == 1
