"""Seconds since the first frame, from the time stamps of a camera that may be wrong."""

from collections.abc import Iterable

DEFAULT_RATE = 25.0  # frames a second, for a stream that gives no rate
MAX_REORDER = 5
"""Frames. A stamp that goes back by less is a frame in the wrong place, not a new clock."""
MAX_STRAYS = 3
"""Frames. If the stamps return after at most as many, the clock has not jumped: they are wrong."""
MAX_STOPPED = 1e-3
"""Seconds. If more than MAX_REORDER frames in a row are nearer, the clock stands still."""
MAX_GAP = 30 * 3600.0
MAX_DISCONTINUOUS_GAP = 10.0
"""Seconds without a frame. The command `ffmpeg` takes a longer gap for a jump of the clock. The
second limit is for formats whose clock may start again, MPEG-TS for example."""


class Clock:
    """Turns time stamps into seconds that never go back.

    After a jump the seconds continue from the frame before, by the time that a frame takes.
    """

    def __init__(self, rate: float | None, discontinuous: bool) -> None:
        self.jumps: list[float] = []
        """The seconds at which the stamps jump."""
        self._step = 1 / (rate or DEFAULT_RATE)
        limit = MAX_DISCONTINUOUS_GAP if discontinuous else MAX_GAP
        self._max_gap = max(limit, 10 * self._step)
        self._stopped = 0  # frames in a row
        self._origin: float | None = None
        self._seconds: float | None = None

    def seconds(self, stamp: float | None, following: Iterable[float | None] = ()) -> float:
        """Returns the seconds of the next frame. `stamp` is None for a frame without a stamp.

        `following` are the stamps of the MAX_STRAYS frames after it.
        """
        last = self._seconds
        expected = 0.0 if last is None else last + self._step
        if stamp is not None and self._is_stray(stamp, following):
            self.jumps.append(expected)
            stamp = None
        if stamp is None:
            self._seconds = expected
            return expected
        if self._origin is None:
            self._origin = stamp - expected
        seconds = stamp - self._origin
        if last is not None:
            if self._is_wrong(seconds - last):
                self._origin, seconds = stamp - expected, expected
            seconds = max(seconds, last)
        self._seconds = seconds
        return seconds

    def _is_stray(self, stamp: float, following: Iterable[float | None]) -> bool:
        """Says if `stamp` is far from the frame before, and one of `following` is near it."""
        stamps = [one for one in following if one is not None]
        return not self._is_continuous_with(stamp) and any(map(self._is_continuous_with, stamps))

    def _is_continuous_with(self, stamp: float) -> bool:
        if self._origin is None or self._seconds is None:
            return True
        gap = stamp - self._origin - self._seconds
        limit = max(MAX_DISCONTINUOUS_GAP, 10 * self._step)
        return -MAX_REORDER * self._step <= gap <= limit

    def _is_wrong(self, gap: float) -> bool:
        """Says if the clock jumps or stands still, `gap` seconds after the frame before."""
        if not -MAX_REORDER * self._step <= gap <= self._max_gap:
            self.jumps.append((self._seconds or 0) + self._step)
            return True
        if gap >= MAX_STOPPED and gap <= 1:
            self._step = gap
        self._stopped = self._stopped + 1 if 0 <= gap < min(MAX_STOPPED, self._step / 10) else 0
        if self._stopped == MAX_REORDER + 1:
            self.jumps.append((self._seconds or 0) + self._step)
        return self._stopped > MAX_REORDER
