"""Iterators that other threads fill in advance, in order and with bounded memory."""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import count, islice, repeat
from threading import Condition
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
Reserve = Callable[[int], None]
"""Waits until there is room for a result of that many pixels."""


class PixelBudget:
    """Pixels that the waiting results may hold together. The next one in order always gets room."""

    def __init__(self, pixels: int) -> None:
        self._free, self._next = pixels, 0.0
        self._held: dict[int, int] = {}
        self._changed = Condition()

    def reserve(self, place: int, pixels: int) -> None:
        """Waits until the result at `place` has room."""
        with self._changed:
            self._changed.wait_for(lambda: place <= self._next or pixels <= self._free)
            self._held[place] = pixels
            self._free -= pixels

    def release(self, place: int) -> None:
        """Frees the room of the result at `place`. The one after it is then the next."""
        with self._changed:
            self._free += self._held.pop(place, 0)
            self._next = place + 1
            self._changed.notify_all()

    def open(self) -> None:
        """Lets everything in: nobody takes results any more."""
        with self._changed:
            self._next = math.inf
            self._changed.notify_all()


def map_in_order(
    function: Callable[[Item, Reserve], Result],
    items: Iterable[Item],
    size: int,
    pixels: int,
    threads: int | None,
) -> Iterator[Result]:
    """Yields `function(item, reserve)` in the order of `items`.

    At most `size` calls are queued or running. `function` calls `reserve` with the pixels of its
    result. Results that were not yielded yet hold at most `pixels`, except the next one. Raises
    what `function` raises.
    """
    pool, budget = ThreadPoolExecutor(threads), PixelBudget(pixels)

    def start(place: int, item: Item) -> tuple[int, Future[Result]]:
        return place, pool.submit(function, item, lambda size: budget.reserve(place, size))

    try:
        rest = (start(*pair) for pair in zip(count(), items))
        queued = deque(islice(rest, size))
        while queued:
            place, future = queued.popleft()
            result = future.result()
            del future  # it holds the result
            budget.release(place)
            queued.extend(islice(rest, 1))
            yield result
            del result
    finally:
        budget.open()
        pool.shutdown(cancel_futures=True)


def prefetch(
    items: Iterable[Item], size: int, pixels: int, pixels_of: Callable[[Item], int]
) -> Iterator[Item]:
    """Yields `items`; one other thread produces up to `size` of them, or `pixels`, in advance."""
    source = iter(items)
    end: Any = object()

    def take(_: None, reserve: Reserve) -> Item:
        item = next(source, end)
        reserve(0 if item is end else pixels_of(item))
        return item

    for item in map_in_order(take, repeat(None), size, pixels, threads=1):
        if item is end:
            return
        yield item
        del item
