"""The counts of the last hour, by the minute."""

from collections import deque

MINUTES = 60


class MinuteMeans:
    """The mean of each of the last MINUTES."""

    def __init__(self) -> None:
        self._minutes: deque[tuple[int, int, int]] = deque(maxlen=MINUTES)
        """A minute's number, the sum of its counts, and how many there are."""

    def add(self, seconds: float, count: int) -> None:
        """Adds the count at `seconds`, which must not fall."""
        minute = int(seconds // 60)
        total, number = 0, 0
        if self._minutes and self._minutes[-1][0] == minute:
            _, total, number = self._minutes.pop()
        self._minutes.append((minute, total + count, number + 1))

    def means(self, now: float) -> list[float | None]:
        """Returns MINUTES values up to the minute of `now`; None for a minute without a count."""
        known = {minute: total / number for minute, total, number in self._minutes}
        last = int(now // 60)
        return [known.get(minute) for minute in range(last - MINUTES + 1, last + 1)]
