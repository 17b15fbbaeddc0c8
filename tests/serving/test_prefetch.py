"""Iterators that other threads fill in advance."""

import threading
import time

import pytest

from llava_dvc.errors import UserError
from llava_dvc.serving.prefetch import map_in_order, prefetch


def test_map_in_order_is_parallel_ordered_and_bounded():
    running, most, lock = 0, 0, threading.Lock()

    def work(number):
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
    found = map_in_order(work, items, 4)
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

    found = prefetch(source(), 3)
    assert next(found) == 0
    assert len(made) <= 5
    assert list(found) == list(range(1, 20))


def test_prefetch_raises_the_error_of_its_source():
    def source():
        yield 1
        raise UserError("broken")

    with pytest.raises(UserError, match="broken"):
        list(prefetch(source(), 3))
