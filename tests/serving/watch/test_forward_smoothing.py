"""Smoothing of a live camera: the chain of `predict --smooth` without later frames."""

import numpy as np
import pytest

from llava_dvc.model.calibration import tempered
from llava_dvc.model.counting import quantile
from llava_dvc.model.smoothing import smooth
from llava_dvc.recipe import Smoothing
from llava_dvc.serving.counter import Count
from llava_dvc.serving.watch.camera.forward_smoothing import ForwardSmoothing
from tests.recipes import recipe

SMOOTHING = Smoothing(spread=2.0, temperature=3.0)
MASS = np.random.default_rng(0).dirichlet(np.full(61, 0.2), 20)


@pytest.fixture
def made(cfg):
    return recipe(cfg, temperature=1.5, smoothing=SMOOTHING, decode="median")


def steps(made, times, every=2.0, frame_seconds=2.0):
    chain = ForwardSmoothing(made, every, frame_seconds)
    calibrated = tempered(MASS, 1.5).tolist()
    return [
        chain.step(Count(0, 0, 0, 0.0, tuple(row), ""), time)
        for row, time in zip(calibrated, times, strict=False)
    ]


def shares(found):
    return np.array([one.probabilities for one in found])


def test_a_count_uses_all_frames_before_and_none_after(made):
    found = steps(made, [100 + 2 * place for place in range(20)])
    wanted = smooth(MASS, SMOOTHING, lag=0)
    np.testing.assert_allclose(shares(found), wanted, atol=1e-9)
    assert [one.count for one in found] == quantile(wanted, 0.5).tolist()
    assert [one.low for one in found] == quantile(wanted, 0.1).tolist()


def test_a_missed_reading_is_a_step_of_which_nothing_is_known(made):
    found = steps(made, [0, 2, 8.1])
    unknown = np.full((2, 61), 1 / 61)
    wanted = smooth(np.concatenate([MASS[:2], unknown, MASS[2:3]]), SMOOTHING, lag=0)
    np.testing.assert_allclose(shares(found)[2], wanted[-1], atol=1e-9)


def test_after_a_long_pause_the_frames_before_say_nothing(made):
    found = steps(made, [0, 2, 4, 1000])
    np.testing.assert_allclose(shares(found)[3], tempered(MASS[3:4], 3.0)[0], atol=1e-9)


def test_readings_further_apart_than_training_frames_have_wider_steps(made):
    found = steps(made, [0, 8], every=8.0, frame_seconds=2.0)
    wider = Smoothing(spread=4.0, temperature=3.0)
    np.testing.assert_allclose(shares(found), smooth(MASS[:2], wider, lag=0), atol=1e-9)
