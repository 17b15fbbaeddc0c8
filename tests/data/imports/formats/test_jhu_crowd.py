"""The files are in the form that the data set's README describes."""

import pytest

from tests.data.imports.formats.conftest import picture

LINES = "30 20 8 10 1 0\n10 4 6 6 2 1\n63 47 6 6 3 0\n"


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())


@pytest.fixture
def train(source):
    """Two splits with a picture of the same name, and one that shows nobody."""
    for split, shade in (("train", 40), ("val", 80)):
        picture(source / split / "images" / "0001.jpg", shade)
    picture(source / "train" / "images" / "0002.jpg", 120)
    write(source / "train" / "gt" / "0001.txt", LINES)
    write(source / "train" / "gt" / "0002.txt", "")
    write(source / "train" / "image_labels.txt", "0001,3,street,0,0\n0002,0,water,2,1\n")
    write(source / "val" / "gt" / "0001.txt", LINES[:15])
    write(source / "val" / "image_labels.txt", "0001,1,stadium,1,0\n")
    return source / "train"


def test_it_arrives(train, load):
    """The point is the middle of the head. The last one is cut by the edge."""
    assert load() == {
        "train/images/0001.jpg": (3, [(30, 20), (10, 4), (62, 46)]),
        "train/images/0002.jpg": (0, []),
        "val/images/0001.jpg": (1, [(30, 20)]),
    }
    assert "JHU-CROWD++" in load.lines[0]


def test_counts_may_be_missing(train, load):
    (train / "image_labels.txt").unlink()
    assert load()["train/images/0001.jpg"][0] == 3


def test_a_picture_without_file_is_asked_for(train, load, refuse):
    picture(train / "images" / "0003.jpg", 160)
    assert "1 picture has no annotation, such as 0003.jpg. Add --empty zero" in refuse()
    assert len(load(empty="skip")) == 3


BAD_HEADS = {
    "few": ("1 2 3 4 1", "has 5 values, expected 6: x y w h o b"),
    "many": ("1 2 3 4 1 0 0", "has 7 values, expected 6"),
    "commas": ("1,2,3,4,1,0", "has 1 values, expected 6"),
    "words": ("1 two 3 4 1 0", "y is 'two', expected a number"),
    "NaN": ("nan 2 3 4 1 0", "x is 'nan', expected a number"),
    "negative": ("1 2 -3 4 1 0", "w is -3, expected a size from 0"),
    "hidden": ("1 2 3 4 0 0", "o is '0', expected 1, 2 or 3"),
    "blurred": ("1 2 3 4 1 2", "b is '2', expected 0 or 1"),
    "outside": ("90 20 3 4 1 0", "a mark at (88.5, 18) lies outside its 64x48 pixels"),
    "twice": ("30 20 8 10 1 0\n30 20 8 10 2 0", "two equal marks are at (26, 15)"),
    "encoding": (b"\xff\xfe1", "is not UTF-8"),
}


@pytest.mark.parametrize("case", BAD_HEADS)
def test_bad_heads_are_one_line_and_nothing_is_written(train, refuse, case):
    text, expected = BAD_HEADS[case]
    (train / "image_labels.txt").unlink()
    write(train / "gt" / "0001.txt", text)
    said = refuse()
    assert "gt/0001.txt" in said
    assert expected in said
    assert len(said.splitlines()) == 1


BAD_COUNTS = {
    "other count": ("0001,4,street,0,0", "the count is 4, but "),
    "no file": ("0009,4,street,0,0", "'0009' has no file "),
    "few": ("0001,3", "has 2 values, expected 5: name, count, scene, weather, distractor"),
    "words": ("0001,three,street,0,0", "count is 'three', expected a number"),
    "negative": ("0001,-3,street,0,0", "count is '-3', expected a whole number from 0"),
    "encoding": (b"0001,3,caf\xe9,0,0", "is not UTF-8"),
}


@pytest.mark.parametrize("case", BAD_COUNTS)
def test_bad_counts_are_one_line_and_nothing_is_written(train, refuse, case):
    text, expected = BAD_COUNTS[case]
    write(train / "image_labels.txt", text)
    said = refuse()
    assert "train/image_labels.txt" in said
    assert expected in said
    assert len(said.splitlines()) == 1


def test_a_missing_picture_and_a_wrong_folder_are_named(train, refuse):
    (train / "images" / "0002.jpg").rename(train / "images" / "0004.jpg")
    assert "train/images/0002 is not among the 3 pictures" in refuse()
    (train / "gt").rename(train / "heads")
    (train.parent / "val" / "gt").rename(train.parent / "val" / "heads")
    said = refuse(format="jhu")
    assert "heads/0001.txt" in said
    assert "is not in a folder named gt. Move it there." in said
