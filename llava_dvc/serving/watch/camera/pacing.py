"""When something is done next: the next reading, and the next attempt to reach a camera."""

import math

FIRST_WAIT = 1.0
LONGEST_WAIT = 30.0
STABLE_SECONDS = 10.0
"""A camera that sent frames for so long is reached again at once. One that ends sooner is not."""


def next_reading(now: float, every: float, offset: float = 0.0) -> float:
    """Returns when the next reading is due, by the clock of `now`.

    All cameras of one `offset` share these moments, so that their frames are counted in one batch.
    """
    return (math.floor((now - offset) / every) + 1) * every + offset


def reading_offsets(cameras: int, batch: int, every: float) -> list[float]:
    """Returns the offset of each camera, in seconds.

    Cameras are read in groups of at most `batch`, one after the other: no group waits for another.
    """
    groups = math.ceil(cameras / batch)
    return [camera * groups // cameras * every / groups for camera in range(cameras)]


class Backoff:
    """How long to wait before each attempt to reach a camera: 1, 2, 4 and at most 30 seconds."""

    def __init__(self) -> None:
        self._next = FIRST_WAIT

    def wait_after(self, live_seconds: float) -> float:
        """Returns the seconds to wait after a connection that sent frames for `live_seconds`."""
        if live_seconds >= STABLE_SECONDS:
            self._next = FIRST_WAIT
        wait, self._next = self._next, min(2 * self._next, LONGEST_WAIT)
        return wait
