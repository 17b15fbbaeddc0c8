"""Newest frames, moments of readings and growing waits, all with plain values."""

import pytest

from llava_dvc.serving.watch.camera.newest_frame import NewestFrame
from llava_dvc.serving.watch.camera.pacing import Backoff, next_reading


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


def test_waits_grow_until_a_camera_was_live_for_a_while():
    backoff = Backoff()
    assert [backoff.wait_after(0) for _ in range(7)] == [1, 2, 4, 8, 16, 30, 30]
    assert backoff.wait_after(3.0) == 30  # it sends a few frames and ends, again and again
    assert [backoff.wait_after(60.0), backoff.wait_after(0)] == [1, 2]
