import tracemalloc

import numpy as np
import pytest
from PIL import Image

from llava_dvc.model.encoder import image_processor, shrink
from tests.conftest import frame


def pixels(geometry, image):
    batch = image_processor(geometry, 56)(images=[image], return_tensors="np")
    return batch["pixel_values"][0]


@pytest.mark.parametrize(("geometry", "seen"), [("pad", True), ("squash", True), ("crop", False)])
def test_the_outermost_columns_reach_the_model(geometry, seen):
    image = np.asarray(frame(1, (640, 480))).copy()
    blacked = image.copy()
    blacked[:, :20] = blacked[:, -20:] = 0
    before, after = (pixels(geometry, Image.fromarray(i)) for i in (image, blacked))
    assert before.shape == (3, 56, 56)
    assert (before != after).any() == seen


def test_pad_keeps_the_shape_and_squash_fills_the_square():
    white = Image.new("RGB", (640, 480), "white")
    padded, squashed = pixels("pad", white), pixels("squash", white)
    assert np.ptp(squashed[0]) == 0
    assert abs(padded[0, 0, 28]) < 0.05  # the border is the mean colour, 0 after normalising
    assert padded[0, 28, 28] == squashed[0, 28, 28]


SIZES = [(640, 480), (480, 640), (56, 56), (57, 56), (300, 301), (20, 30), (400, 25), (25, 400)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("geometry", ["pad", "squash", "crop"])
def test_a_frame_that_is_shrunk_first_gives_the_same_pixels(geometry, size, monkeypatch):
    monkeypatch.setattr("llava_dvc.model.encoder.STRIP", 10_000)
    image = frame(1, size)
    small = shrink(image, image_processor(geometry, 56))
    assert geometry == "crop" or small.size == (56, 56)
    assert np.array_equal(pixels(geometry, small), pixels(geometry, image))


def test_the_square_of_a_long_frame_is_never_in_memory(encoder):
    tracemalloc.start()
    for size in ((16, 9000), (9000, 16)):
        encoder.encode([Image.new("RGB", size)], [encoder.prompt("How many?")])
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 10_000_000


def test_an_encoder_is_saved_as_the_same_bytes_whatever_it_encoded(encoder, tmp_path):
    prompts = [encoder.prompt("How many?"), encoder.prompt("How many people are there?")]
    saved = []
    for times in range(2):
        for _ in range(times):  # two prompts of different lengths are padded
            encoder.encode([Image.new("RGB", (64, 48))] * 2, prompts)
        encoder.save(tmp_path / str(times))
        saved.append({p.name: p.read_bytes() for p in (tmp_path / str(times)).iterdir()})
    assert saved[0] == saved[1]
