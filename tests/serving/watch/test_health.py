"""Pictures that cannot be true."""

import numpy as np
import pytest
from PIL import Image

from llava_dvc.serving.watch.camera.health import PictureHealth
from tests.conftest import frame

SIZE = 640, 480


def noisy(mean, noise, seed=0, size=SIZE):
    """A picture of one grey level with the noise of a sensor."""
    levels = np.random.default_rng(seed).normal(mean, noise, size[::-1])
    return Image.fromarray(levels.clip(0, 255).astype(np.uint8)).convert("RGB")


def marks(images):
    health = PictureHealth()
    return [health.step(image) for image in images]


def test_pictures_that_differ_are_true():
    assert marks(frame(seed, SIZE) for seed in range(8)) == [None] * 8


def test_a_picture_that_stays_is_frozen_from_the_fifth_on_until_it_moves():
    still, other = frame(1, SIZE), frame(2, SIZE)
    assert marks([still] * 6 + [other] * 4) == [None] * 4 + ["frozen"] * 2 + [None] * 4


@pytest.mark.parametrize("size", [SIZE, (1600, 1200)])
def test_an_empty_room_is_not_frozen_because_its_sensor_is_noisy(size):
    room = np.asarray(frame(1, size), np.int16)
    random = np.random.default_rng(0)
    noise = (random.integers(-1, 2, room.shape, dtype=np.int8) for _ in range(6))
    seen = (Image.fromarray((room + one).clip(0, 255).astype(np.uint8)) for one in noise)
    assert marks(seen) == [None] * 6


def test_a_picture_is_changed_from_the_third_in_a_row_on_that_is_unlike_training():
    health = PictureHealth()
    distances = [0.9, 1.1, 1.1, 1.0, 1.1, 1.1, 1.1, 1.1, 0.5, None, 1.1]
    found = [health.step(frame(seed, SIZE), one) for seed, one in enumerate(distances)]
    assert found == [None] * 6 + ["changed"] * 2 + [None] * 3


def test_a_picture_that_is_black_is_not_called_changed():
    health = PictureHealth()
    assert [health.step(noisy(5, 3, seed), 4.0) for seed in range(4)] == ["black"] * 4


def test_black_and_blinded_pictures_are_marked_at_once():
    assert marks([noisy(5, 3)]) == ["black"]
    assert marks([noisy(250, 3), noisy(128, 3)]) == ["blinded"] * 2
    assert marks([noisy(15, 20)]) == [None]  # a few lights at night
