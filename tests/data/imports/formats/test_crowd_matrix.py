"""The files are as scipy writes the variables of the authors: `image_info` is a cell of a struct
in a cell, as in ShanghaiTech, and `annPoints` a matrix, as in UCF-QNRF.
"""

import numpy as np
import pytest
from scipy.io import savemat

from llava_dvc.data.imports import count_matrix
from tests.data.imports.formats.conftest import picture

HEADS = np.array([[10.5, 4.25], [30, 47.9], [63, 0]])
POINTS = [(10.5, 4.25), (30, 47.9), (63, 0)]


def write_info(path, points, number=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    count = np.array([[len(points) if number is None else number]], np.uint8)
    info = np.array([[{"location": np.asarray(points, float), "number": count}]], dtype=object)
    savemat(path, {"image_info": info})


@pytest.fixture
def shanghaitech(source):
    folder = source / "part_A" / "train_data"
    picture(folder / "images" / "IMG_1.jpg")
    picture(source / "part_A" / "test_data" / "images" / "IMG_1.jpg", 77)
    write_info(folder / "ground_truth" / "GT_IMG_1.mat", HEADS)
    write_info(source / "part_A/test_data/ground_truth/GT_IMG_1.mat", HEADS[:1])
    return folder


def test_shanghaitech_arrives(shanghaitech, load):
    assert load() == {
        "train_data/images/IMG_1.jpg": (3, POINTS),
        "test_data/images/IMG_1.jpg": (1, POINTS[:1]),
    }


def test_a_picture_with_no_point_shows_nobody(shanghaitech, load):
    write_info(shanghaitech / "ground_truth" / "GT_IMG_1.mat", np.zeros((0, 2)))
    assert load()["train_data/images/IMG_1.jpg"] == (0, [])


def test_qnrf_arrives_with_heads_beyond_the_edge_moved_to_it(source, load):
    picture(source / "Train" / "img_0001.jpg")
    picture(source / "Train" / "img_0002.jpg")
    savemat(source / "Train" / "img_0001_ann.mat", {"annPoints": HEADS + np.array([2.5, 0])})
    savemat(source / "Train" / "img_0002_ann.mat", {"annPoints": np.array([[1, 2]], np.uint16)})
    found = load()
    assert found["img_0001.jpg"] == (3, [(13, 4.25), (32.5, 47.9), (64, 0)])
    assert found["img_0002.jpg"] == (1, [(1, 2)])


def test_a_picture_without_file_is_asked_for(shanghaitech, refuse):
    picture(shanghaitech / "images" / "IMG_2.jpg")
    assert "1 picture has no annotation, such as IMG_2.jpg. Add --empty zero" in refuse()


def save(**variables):
    return lambda path: savemat(path, variables, do_compression=True)


STRUCT = np.array([[{"location": HEADS}]], dtype=object)
BAD = {
    "empty": (lambda path: path.write_bytes(b""), "GT_IMG_1.mat: cannot be read ("),
    "text": (lambda path: path.write_text("points"), "GT_IMG_1.mat: cannot be read ("),
    "cut off": (lambda path: path.write_bytes(path.read_bytes()[:200]), "cannot be read ("),
    "nothing": (save(), "cannot be read (it has nothing)"),
    "other": (save(count=3), "cannot be read (it has count)"),
    "both": (save(annPoints=HEADS, image_info=STRUCT), "(it has annPoints, image_info)"),
    "number": (lambda path: write_info(path, HEADS, 4), "(it has 3 points, but its number is 4)"),
    "no number": (save(image_info=STRUCT), "`image_info` has no `location` and `number`"),
    "cells": (save(image_info=np.array([[1, "a"]], object)), "has no `location` and `number`"),
    "shape": (save(annPoints=np.ones((2, 3))), "the points have the shape (2, 3)"),
    "NaN": (save(annPoints=np.array([[1, np.nan]])), "a point is not finite"),
    "words": (save(annPoints="heads"), "cannot be read ("),
    "outside": (save(annPoints=np.array([[90, 4]])), "a mark at (90, 4) lies outside its 64x48"),
    "twice": (save(annPoints=HEADS[[0, 0]]), "two equal marks are at (10.5, 4.25)"),
    "huge": (save(annPoints=np.zeros((999, 2))), "the file unpacks to more than 9,000 bytes"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_nothing_is_written(shanghaitech, refuse, monkeypatch, case):
    monkeypatch.setattr(count_matrix, "MAX_BYTES", 9000)
    write, expected = BAD[case]
    path = shanghaitech / "ground_truth" / "GT_IMG_1.mat"
    write(path)
    text = refuse()
    assert expected in text
    assert len(text.splitlines()) == 1


def test_a_picture_that_is_missing_is_named(shanghaitech, refuse):
    (shanghaitech / "images" / "IMG_1.jpg").rename(shanghaitech / "images" / "IMG_3.jpg")
    (shanghaitech.parent / "test_data" / "images" / "IMG_1.jpg").unlink()
    assert "train_data/images/IMG_1 is not among the 1 pictures" in refuse()
