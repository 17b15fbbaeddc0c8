"""Newest frames, moments of readings and growing waits, all with plain values."""

import pytest

from llava_dvc.serving.watch.camera.newest_frame import NewestFrame
from llava_dvc.serving.watch.camera.pacing import Backoff, next_reading, reading_offsets


def test_only_the_newest_frame_is_taken_and_the_others_are_counted():
    newest = NewestFrame[int]()
    for number in range(5):
        newest.put(number)
    assert (newest.take(), newest.dropped) == (4, 4)
    newest.put(5)
    assert (newest.take(), newest.dropped) == (5, 4)


def test_after_the_end_the_last_frame_is_still_taken():
    newest = NewestFrame[int]()
    newest.put(1)
    newest.close()
    assert [newest.take(), newest.take()] == [1, None]


@pytest.mark.parametrize(
    ("now", "every", "due"), [(10.0, 2, 12), (11.9, 2, 12), (12.1, 2, 14), (17.3, 0.5, 17.5)]
)
def test_all_cameras_are_due_at_the_same_moments(now, every, due):
    assert next_reading(now, every) == due


@pytest.mark.parametrize(("now", "due"), [(10.0, 10.5), (10.5, 12.5), (12.4, 12.5), (12.6, 14.5)])
def test_the_cameras_of_a_group_are_due_after_the_others(now, due):
    assert next_reading(now, 2.0, 0.5) == due


@pytest.mark.parametrize(
    ("cameras", "batch", "offsets"),
    [
        (1, 8, [0]),
        (3, 8, [0, 0, 0]),
        (4, 3, [0, 0, 1, 1]),
        (5, 2, [0, 0, 2 / 3, 2 / 3, 4 / 3]),
        (4, 1, [0, 0.5, 1, 1.5]),
    ],
)
def test_no_more_cameras_than_a_batch_are_read_together(cameras, batch, offsets):
    assert reading_offsets(cameras, batch, 2.0) == pytest.approx(offsets)


def test_waits_grow_until_a_camera_was_live_for_a_while():
    backoff = Backoff()
    assert [backoff.wait_after(0) for _ in range(7)] == [1, 2, 4, 8, 16, 30, 30]
    assert backoff.wait_after(3.0) == 30  # it sends a few frames and ends, again and again
    assert [backoff.wait_after(60.0), backoff.wait_after(0)] == [1, 2]
