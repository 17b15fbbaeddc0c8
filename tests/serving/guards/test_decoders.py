"""Frames that are made to harm a decoder."""

import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from llava_dvc.data.images import ImageError, decode_image
from llava_dvc.serving.guards.decoder_worker import MAX_SCANS, has_few_scans
from llava_dvc.serving.guards.decoders import DecoderPool
from llava_dvc.serving.service import DECODERS
from tests.conftest import frame
from tests.serving.guards.broken_images import (
    costly_images,
    many_scans,
    mutated_images,
    progressive,
    tiny_tiles,
)
from tests.serving.requests import encoded

SECONDS = 5.0


@pytest.fixture
def pool():
    pool = DecoderPool(DECODERS)
    yield pool
    pool.close()


def accept(pixels: int) -> None:
    """As the service does: no frame over 25 megapixels."""
    if pixels > 25_000_000:
        raise ImageError("too large", "has too many pixels")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF"])
def test_a_frame_is_decoded_as_elsewhere(pool, kind):
    content = encoded(frame(1, (320, 200)), kind)
    seen = []
    image = pool.decode(content, seen.append)
    assert np.array_equal(image, decode_image(content))
    assert (image.mode, seen) == ("RGB", [64_000])


def test_a_large_frame_fits_the_limits(pool):
    content = encoded(Image.new("CMYK", (6000, 4160), (9, 90, 9, 90)))
    assert pool.decode(content, accept).size == (6000, 4160)


def test_a_refused_frame_costs_no_decoder(pool):
    def refuse(pixels: int) -> None:
        raise RuntimeError(f"{pixels} are too many")

    for _ in range(2 * DECODERS):
        with pytest.raises(RuntimeError, match="3072 are too many"):
            pool.decode(encoded(frame(1)), refuse)
    assert pool.decode(encoded(frame(1)), accept).size == (64, 48)


def test_a_decoder_that_was_killed_is_replaced():
    pool = DecoderPool(1)
    pool.decode(encoded(frame(1)), accept)

    def kill(_: int) -> None:
        os.kill(pool._decoders[0]._process.pid, signal.SIGKILL)

    with pytest.raises(ImageError, match=r"cannot be decoded \(the decoder ended with SIGKILL\)"):
        pool.decode(encoded(frame(1)), kill)
    assert pool.decode(encoded(frame(1)), accept).size == (64, 48)
    pool.close()


def test_scans_are_counted_in_the_first_image_only():
    whole = progressive(frame(1))
    assert has_few_scans(whole)
    assert has_few_scans(whole + b"\xff\xda" * 1000)  # a second image, or a video behind the first
    preview = b"\xff\xda\0\2" * 1000
    assert has_few_scans(whole[:2] + b"\xff\xe1\x0f\xa2" + preview + whole[2:])
    assert not has_few_scans(many_scans((64, 48), MAX_SCANS))
    assert not has_few_scans(many_scans((64, 48), MAX_SCANS)[:-2])


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (
            many_scans((64, 48), 101),
            r"^has more than 100 scans; save it as a baseline JPEG or a PNG$",
        ),
        (
            tiny_tiles(1000, 1_000_000),
            r"^takes too much time to decode; save it as a baseline JPEG or a PNG$",
        ),
    ],
    ids=["scans", "tiles"],
)
def test_a_costly_frame_is_refused_with_the_remedy(pool, content, says):
    with pytest.raises(ImageError, match=says):
        pool.decode(content, accept)


def test_no_frame_holds_a_decoder_or_harms_the_others(pool):
    ordinary = encoded(frame(2, (640, 480)))
    done = threading.Event()

    def attack(content: bytes) -> tuple[float, str]:
        start, answer = time.monotonic(), ""
        try:
            pool.decode(content, accept)
        except ImageError as error:
            answer = str(error)
        return time.monotonic() - start, answer

    def ask_until_done() -> list[float]:
        seconds = []
        while not (seconds and done.is_set()):
            start = time.monotonic()
            assert pool.decode(ordinary, accept).size == (640, 480)
            seconds.append(time.monotonic() - start)
            done.wait(0.05)
        return seconds

    with ThreadPoolExecutor(1) as threads:
        asking = threads.submit(ask_until_done)
        attacks = [*costly_images().values(), *mutated_images(seed=17, number=150)]
        answers = [attack(content) for content in attacks]
        done.set()
        seconds = asking.result()
    assert max(took for took, _ in answers) < SECONDS
    assert all(len(answer) < 300 and "\n" not in answer for _, answer in answers)
    assert max(seconds) < SECONDS
    assert sorted(seconds)[len(seconds) // 2] < 0.5
