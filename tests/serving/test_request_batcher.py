"""Requests counted in batches."""

import pytest
from PIL import Image

from llava_dvc.serving import request_batcher
from llava_dvc.serving.request_batcher import QueueFull, RequestBatcher


@pytest.fixture
def batcher(blocked):
    running = RequestBatcher(blocked, 4)
    yield running
    blocked.release.set()
    running.close()


def wide(width: int) -> Image.Image:
    return Image.new("RGB", (width, 1))


def test_queued_frames_are_counted_in_one_batch(batcher, blocked):
    first = batcher.enqueue(wide(100))
    blocked.wait_for_batch()
    rest = [batcher.enqueue(wide(width)) for width in range(2, 9)]
    blocked.release.set()
    assert first.result(30).count == 100
    assert [one.result(30).count for one in rest] == list(range(2, 9))
    assert blocked.batches == [1, 4, 3]


def test_a_cancelled_frame_is_not_counted(batcher, blocked):
    batcher.enqueue(wide(2))
    blocked.wait_for_batch()
    gone, other = batcher.enqueue(wide(3)), batcher.enqueue(wide(4))
    assert gone.cancel()
    blocked.release.set()
    assert other.result(30).count == 4
    assert blocked.batches == [1, 1]


def test_an_error_is_the_answer_to_its_own_frame_only(batcher, blocked):
    first = batcher.enqueue(wide(100))
    blocked.wait_for_batch()
    good, bad, last = (batcher.enqueue(wide(width)) for width in (2, 1, 3))
    blocked.release.set()
    with pytest.raises(RuntimeError, match="out of memory"):
        bad.result(30)
    assert [one.result(30).count for one in (first, good, last)] == [100, 2, 3]
    assert blocked.batches == [1, 3, 1, 1, 1]
    assert batcher.enqueue(wide(5)).result(30).count == 5


def test_close_counts_the_queued_frames(blocked):
    batcher = RequestBatcher(blocked, 4)
    answers = [batcher.enqueue(wide(width)) for width in range(2, 12)]
    blocked.release.set()
    batcher.close()
    assert [one.result(0).count for one in answers] == list(range(2, 12))


def test_places_are_limited_and_released(batcher, monkeypatch):
    monkeypatch.setattr(request_batcher, "MAX_QUEUED_FRAMES", 2)
    with batcher.reserve() as hold_first:
        hold_first(request_batcher.MAX_QUEUED_PIXELS - 10)
        with batcher.reserve() as hold_second:
            hold_second(10)
            assert batcher.reserved == 2
            with pytest.raises(QueueFull), batcher.reserve():
                pass
            with pytest.raises(QueueFull):
                hold_second(1)
        with batcher.reserve() as hold_third:
            hold_third(10)
    assert batcher.reserved == 0


def test_a_released_place_takes_no_more_pixels(batcher):
    with batcher.reserve() as hold_late:
        pass
    with pytest.raises(QueueFull):
        hold_late(1)
    with batcher.reserve() as hold_pixels:
        hold_pixels(request_batcher.MAX_QUEUED_PIXELS)
