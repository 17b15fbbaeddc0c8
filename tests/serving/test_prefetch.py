"""Iterators that other threads fill in advance."""

import threading
import time

import pytest

from llava_dvc.errors import UserError
from llava_dvc.serving.prefetch import map_in_order, prefetch

MANY = 10**9


def test_map_in_order_is_parallel_ordered_and_bounded():
    running, most, lock = 0, 0, threading.Lock()

    def work(number, reserve):
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.002 * (number % 3))
        with lock:
            running -= 1
        return number

    started = []
    items = (started.append(number) or number for number in range(40))
    found = map_in_order(work, items, 4, MANY, 8)
    assert [next(found), next(found)] == [0, 1]
    assert len(started) <= 2 + 4
    assert list(found) == list(range(2, 40))
    assert 1 < most <= 4


def test_prefetch_is_bounded():
    made = []

    def source():
        for number in range(20):
            made.append(number)
            yield number

    found = prefetch(source(), 3, MANY, abs)
    assert next(found) == 0
    assert len(made) <= 5
    assert list(found) == list(range(1, 20))


def test_prefetch_raises_the_error_of_its_source():
    def source():
        yield 1
        raise UserError("broken")

    with pytest.raises(UserError, match="broken"):
        list(prefetch(source(), 3, MANY, abs))


def test_waiting_results_hold_few_pixels():
    held, most, lock = 0, 0, threading.Lock()

    def work(pixels, reserve):
        nonlocal held, most
        reserve(pixels)
        with lock:
            held += pixels
            most = max(most, held)
        return pixels

    items = [1, 1, 1, 50, 60, 70, 1, 1, 1, 500, 1, 40, 40, 40] * 3
    found = []
    for pixels in map_in_order(work, items, 8, 100, 8):
        time.sleep(0.002)
        found.append(pixels)
        with lock:
            held -= pixels
    assert found == items
    # The next one in order may be too large, and the caller holds one.
    assert most <= 500 + 100 + 70


def test_prefetched_items_hold_few_pixels():
    made = []

    def source():
        for _ in range(20):
            made.append(40)
            yield 40

    found = prefetch(source(), 10, 100, abs)
    next(found)
    time.sleep(0.05)
    assert 2 <= len(made) <= 4
    assert list(found) == [40] * 19


def test_threads_that_wait_for_room_end_with_the_iterator():
    before = threading.active_count()
    found = prefetch(iter([40] * 20), 10, 50, abs)
    next(found)
    found.close()
    assert threading.active_count() == before
