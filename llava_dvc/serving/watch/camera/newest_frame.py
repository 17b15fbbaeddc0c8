"""Hands frames from the thread that decodes them to the thread that counts them."""

from threading import Condition
from typing import Generic, TypeVar

Item = TypeVar("Item")


class NewestFrame(Generic[Item]):
    """Room for one frame. A newer one takes the place of one that nobody has taken."""

    def __init__(self) -> None:
        self.dropped = 0
        """Frames that a newer one replaced."""
        self._item: Item | None = None
        self._closed = False
        self._changed = Condition()

    def put(self, item: Item) -> None:
        with self._changed:
            self.dropped += self._item is not None
            self._item = item
            self._changed.notify()

    def take(self) -> Item | None:
        """Waits for a frame. Returns None when no more will come."""
        with self._changed:
            self._changed.wait_for(lambda: self._item is not None or self._closed)
            item, self._item = self._item, None
            return item

    def close(self) -> None:
        """Says that no more frames come. A last one can still be taken."""
        with self._changed:
            self._closed = True
            self._changed.notify()
