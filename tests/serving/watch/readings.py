"""Readings that tests make up."""

from datetime import UTC, datetime, timedelta

from llava_dvc.serving.watch.reading import Interval, Reading

START = datetime(2026, 11, 26, 8, 0, tzinfo=UTC)


def reading(seconds: float, count: int, spread: int = 3, **changed) -> Reading:
    """Of the camera `hall`, so many seconds after START; its interval is `count` ± `spread`."""
    interval = Interval(count, max(0, count - spread), count + spread)
    return Reading(START + timedelta(seconds=seconds), "hall", interval, **changed)
