"""Iterators that other threads fill in advance, in order and with a bounded queue."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice, repeat
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_in_order(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    size: int,
    threads: int | None = None,
) -> Iterator[Result]:
    """Yields `function(item)` in the order of `items`. At most `size` calls are queued or running.

    `threads` is None for the default of ThreadPoolExecutor. Raises what `function` raises.
    """
    pool = ThreadPoolExecutor(threads)
    try:
        rest = iter(items)
        queued = deque(pool.submit(function, item) for item in islice(rest, size))
        while queued:
            result = queued.popleft().result()
            queued.extend(pool.submit(function, item) for item in islice(rest, 1))
            yield result
    finally:
        pool.shutdown(cancel_futures=True)


def prefetch(items: Iterable[Item], size: int) -> Iterator[Item]:
    """Yields `items`; one other thread produces up to `size` of them in advance."""
    source = iter(items)
    end: Any = object()
    for item in map_in_order(lambda _: next(source, end), repeat(None), size, threads=1):
        if item is end:
            return
        yield item
