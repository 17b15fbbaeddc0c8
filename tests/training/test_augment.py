import numpy as np
import pytest

from llava_dvc.training.augment import augmented_image
from tests.conftest import frame


def row(name="seq_000001.jpg", **more):
    return {"frame": name, "image": frame(3, (320, 240)), **more}


def pixels(image):
    return np.asarray(image, dtype=int)


def test_without_kinds_a_frame_is_shown_as_it_is():
    assert augmented_image(row(), ()) is not None
    assert np.array_equal(pixels(augmented_image(row(), ())), pixels(frame(3, (320, 240))))


def test_light_changes_every_pixel_alike_and_moves_none():
    plain, lit = pixels(augmented_image(row(), ())), pixels(augmented_image(row(), ("light",)))
    assert lit.shape == plain.shape
    assert abs(lit - plain).mean() > 1
    assert np.corrcoef(lit.ravel(), plain.ravel())[0, 1] > 0.95


def test_blur_smooths_some_of_the_frames():
    rows = [row(f"{n}.jpg") for n in range(12)]
    sharp = [np.diff(pixels(augmented_image(r, ())), axis=1).std() for r in rows]
    soft = [np.diff(pixels(augmented_image(r, ("blur",))), axis=1).std() for r in rows]
    assert all(a >= b for a, b in zip(sharp, soft, strict=True))
    assert 2 < sum(a > b for a, b in zip(sharp, soft, strict=True)) < 11


@pytest.mark.parametrize("kinds", [("light",), ("light", "blur")])
def test_a_row_is_always_drawn_alike_and_its_mirror_image_otherwise(kinds):
    once, twice = (pixels(augmented_image(row(), kinds)) for _ in range(2))
    assert np.array_equal(once, twice)
    turned = pixels(augmented_image(row(mirror=True), kinds))[:, ::-1]
    assert not np.array_equal(once, turned)
    assert not np.array_equal(once, pixels(augmented_image(row("other.jpg"), kinds)))
