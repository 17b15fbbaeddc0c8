"""The renderer and what pretraining makes of its frames."""

import numpy as np
import pytest
import torch

from pretrain import augment
from pretrain.crowd import random_count
from pretrain.lens import _source, bend_heads
from pretrain.model import SHAPES, build_model
from pretrain.render import render
from pretrain.stepper import FINISH
from pretrain.tokenizer import build_tokenizer

WIDTH, HEIGHT = 640, 480


def test_a_frame_is_a_function_of_its_seed():
    one, two, other = render(3), render(3), render(4)
    assert np.array_equal(one.image, two.image)
    assert np.array_equal(one.heads, two.heads)
    assert not np.array_equal(one.image, other.image)


@pytest.mark.parametrize("seed", range(5))
def test_everyone_counted_is_in_the_frame_and_visible(seed: int):
    frame = render(seed)
    assert frame.image.shape == (HEIGHT, WIDTH, 3)
    assert len(frame.heads) == len(frame.visible) == frame.count
    assert (frame.heads >= 0).all()
    assert (frame.heads < (WIDTH, HEIGHT)).all()
    assert ((frame.visible > 0) & (frame.visible <= 1)).all()


def test_more_people_are_drawn_than_are_tested():
    rng = np.random.default_rng(0)
    counts = [random_count(rng) for _ in range(3000)]
    assert min(counts) == 0
    assert 60 < max(counts) <= 90


@pytest.mark.parametrize("bulge", [0.02, 0.2])
def test_a_bent_head_shows_what_was_there_and_far_ones_stay_outside(bulge: float):
    rng = np.random.default_rng(0)
    size = np.array([WIDTH, HEIGHT])
    near, far = rng.uniform(0, 1, (200, 2)) * size, rng.uniform(2, 9, (200, 2)) * size
    heads = np.concatenate([near, far, -far])
    heads = np.concatenate([heads, np.full((600, 1), 9.0)], axis=1).astype(np.float32)
    bent, areas = bend_heads(heads, np.ones(600, np.float32), (WIDTH, HEIGHT), bulge)
    np.testing.assert_allclose(_source(bent[:200, :2], size, bulge), near, atol=0.1)
    inside = ((bent[:, :2] >= 0) & (bent[:, :2] <= size)).all(axis=1)
    assert not inside[200:].any()
    assert np.isfinite(areas).all()


def test_at_the_end_most_pictures_are_whole():
    torch.manual_seed(0)
    view = augment.random_view(2000, WIDTH, HEIGHT, FINISH.tensor(torch.device("cpu")))
    whole = (view.shown == torch.tensor([0.0, 0.0, WIDTH, HEIGHT])).all(dim=1)
    assert 0.4 < whole.float().mean() < 0.9
    size = view.shown[:, 2:] - view.shown[:, :2]
    assert (size > 0.5 * torch.tensor([WIDTH, HEIGHT])).all()


def test_heads_are_counted_again_in_every_view():
    frame = render(2)
    heads = torch.from_numpy(frame.heads)[None]
    counted = torch.ones(1, frame.count, dtype=torch.bool)
    view = augment.whole_view(1, WIDTH, HEIGHT, pad=True, device=torch.device("cpu"))
    places, seen = augment.place_heads(heads, counted, view)
    cells = augment.heads_per_cell(places, seen, grid=20, cells=4)
    assert int(seen.sum()) == frame.count > 0
    assert cells.sum() == pytest.approx(frame.count, rel=1e-4)


def test_only_bright_areas_spread_light():
    torch.manual_seed(3)
    pixels = torch.full((4, 3, 64, 64), 0.5)
    assert not augment._glare(pixels).any()
    pixels[:, :, 24:40, 24:40] = 1.0
    light = augment._glare(pixels)
    assert (light[:, :, 20, 32] > light[:, :, 0, 0]).all()
    assert not light[:, :, 0, 0].any()


def test_tiny_llava_keeps_under_its_limit():
    model = build_model(SHAPES["second"], build_tokenizer())
    assert sum(parameter.numel() for parameter in model.parameters()) <= 8_000_000
