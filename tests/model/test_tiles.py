"""Frames cut into tiles: the cuts, the sum of distributions, and answers of the model."""

from itertools import product

import numpy as np
import pytest
from datasets import Dataset

from llava_dvc.errors import UserError
from llava_dvc.evaluation.baselines import REGIONS, tower_features
from llava_dvc.model.backbone import backbone_encoder
from llava_dvc.model.counting import CountPredictor
from llava_dvc.model.tiles import Tiles, convolve, points_in, reply_of_tiles, tile_boxes, tile_sizes
from tests.conftest import frame

QUESTION = "How many people?"
GRIDS = [(1, 1), (2, 2), (3, 2), (1, 4), (4, 3)]


@pytest.fixture
def encoder_of(cfg):
    """The encoder of an `image` section with changes."""
    return lambda **changes: backbone_encoder(cfg.backbone, cfg.image.model_copy(update=changes))


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("size", [(64, 48), (641, 479), (17, 16)])
def test_tiles_cover_every_pixel_once(size, grid):
    boxes, seen = tile_boxes(size, grid), np.zeros(size[::-1], int)
    for left, top, right, bottom in boxes:
        seen[top:bottom, left:right] += 1
    assert len(boxes) == grid[0] * grid[1]
    assert (seen == 1).all()
    for sides in zip(*tile_sizes(size, grid), strict=True):
        assert max(sides) - min(sides) <= 1


def test_tiles_are_row_by_row():
    assert tile_boxes((640, 480), (2, 1)) == [(0, 0, 320, 480), (320, 0, 640, 480)]
    assert tile_boxes((7, 3), (2, 2))[1:3] == [(4, 0, 7, 2), (0, 2, 4, 3)]


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("size", [(64, 48), (65, 49)])
def test_every_point_is_in_one_tile(size, grid):
    """Also on a line between two tiles, at the corners and on the last edge."""
    lines = [sorted({0, length, length / 2, *range(0, length, 8)}) for length in size]
    points = [*product(*lines), *np.random.default_rng(1).uniform(0, size, (50, 2)).tolist()]
    boxes = tile_boxes(size, grid)
    found = [
        (round(x + left, 6), round(y + top, 6))
        for left, top, right, bottom in boxes
        for x, y in points_in((left, top, right, bottom), size, points)
    ]
    assert sorted(found) == sorted((round(x, 6), round(y, 6)) for x, y in points)
    for box, (width, height) in zip(boxes, tile_sizes(size, grid), strict=True):
        assert all(0 <= x <= width and 0 <= y <= height for x, y in points_in(box, size, points))


def test_a_point_between_two_tiles_is_in_the_right_and_lower_one():
    boxes = tile_boxes((8, 8), (2, 2))
    assert [len(points_in(box, (8, 8), [(4, 4)])) for box in boxes] == [0, 0, 0, 1]
    assert points_in(boxes[3], (8, 8), [(4, 4), (8, 8)]) == [(0, 0), (4, 4)]


@pytest.mark.parametrize("tiles", [1, 2, 4])
def test_convolution_is_the_sum_over_all_combinations(tiles):
    mass = np.random.default_rng(tiles).dirichlet(np.ones(5), (3, tiles))
    expected = np.zeros((3, 5))
    for counts in product(range(5), repeat=tiles):
        if sum(counts) < 5:
            expected[:, sum(counts)] += mass[:, range(tiles), counts].prod(axis=1)
    expected /= expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(convolve(mass), expected, rtol=1e-12)


def test_a_sum_that_is_above_every_answer_is_the_largest():
    mass = np.zeros((1, 2, 5))
    mass[:, :, 4] = 1
    assert convolve(mass).tolist() == [[0, 0, 0, 0, 1]]


@pytest.mark.parametrize(
    ("replies", "whole"), [(["3", " 12", "0"], "15"), (["3", ""], "3 + "), (["a", "2"], "a + 2")]
)
def test_a_reply_is_the_sum_if_all_tiles_have_numbers(replies, whole):
    assert reply_of_tiles(replies) == whole


def test_a_frame_is_decoded_once_for_all_its_tiles():
    images, decoded = [frame(1, (9, 7)), frame(2, (8, 8))], []

    class Frames(list):
        def __getitem__(self, place):
            decoded.append(place)
            return super().__getitem__(place)

    tiles = Tiles(Frames(images), (2, 2))
    assert len(tiles) == 8
    cut = [tiles[place] for place in range(8)]
    assert decoded == [0, 1]
    wanted = [image.crop(box) for image in images for box in tile_boxes(image.size, (2, 2))]
    assert cut == wanted == tiles[:]
    assert tiles[-1] == wanted[-1]
    with pytest.raises(IndexError):
        tiles[8]


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("drop_border", [False, True])
def test_an_answer_is_that_of_the_tiles_together(backbone, encoder_of, flip, drop_border):
    images = [frame(seed, (84, 60)) for seed in range(3)]
    cut, whole = (encoder_of(tiles=grid, drop_border=drop_border) for grid in ((3, 2), (1, 1)))
    answers = CountPredictor(backbone, cut, QUESTION, 60, flip=flip).predict(images, 4)
    crops = [image.crop(box) for image in images for box in tile_boxes((84, 60), (3, 2))]
    each = CountPredictor(backbone, whole, QUESTION, 60, flip=flip).predict(crops, 4)
    for place in range(3):
        mine, mass = slice(6 * place, 6 * place + 6), np.ones(1)
        for tile in each.probabilities[mine]:
            mass = np.convolve(mass, tile)
        np.testing.assert_allclose(answers.probabilities[place], mass[:61] / mass[:61].sum())
        assert answers.replies[place] == reply_of_tiles(each.replies[mine])


def test_one_tile_is_the_frame(backbone, encoder, encoder_of):
    images = [frame(1), frame(2)]
    assert encoder.tiles == (1, 1)
    assert encoder.pictures(images) is images
    assert len(encoder_of(tiles=(2, 1)).pictures(images)) == 4


def test_tiles_of_two_sizes_need_the_border(backbone, encoder_of):
    images = [frame(1, (85, 60))]
    plain = CountPredictor(backbone, encoder_of(tiles=(2, 2)), QUESTION, 60)
    assert plain.predict(images, 4).probabilities.shape == (1, 61)
    dropping = encoder_of(tiles=(2, 2), drop_border=True)
    line = r"true, but tiles are 42x30 and 43x30; make all frames one size that image.tiles \[2, 2"
    with pytest.raises(UserError, match=line):
        CountPredictor(backbone, dropping, QUESTION, 60).predict(images, 4)


def test_ridge_sees_the_same_tiles(backbone, encoder, encoder_of, rows):
    found = tower_features(backbone, encoder_of(tiles=(2, 1)), rows)
    assert found.shape == (8, 2 * REGIONS**2 * 64)
    halves = [{"image": row["image"].crop((32, 0, 64, 48))} for row in rows]
    right = tower_features(backbone, encoder, Dataset.from_list(halves))
    np.testing.assert_allclose(found[:, REGIONS**2 * 64 :], right, atol=1e-5)
