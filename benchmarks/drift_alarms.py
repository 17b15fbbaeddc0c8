"""How often `llava-dvc drift` marks a camera at which nothing has changed, and one that has.

    python -m benchmarks.drift_alarms [WEEKS]

The readings are made up: one a minute for two weeks, of which the second is looked at. The number
of people follows the hour of the day. Counts, intervals and distances of neighbouring minutes are
alike, and each day has a level of its own (weather, weekday), which the statistics do not know.
"""

import sys
from collections.abc import Callable
from datetime import UTC, datetime

import numpy as np
import pandas as pd

from llava_dvc.drift.compare import CHANCE, ZoneReadings, split_zones
from llava_dvc.drift.training_facts import TrainingFacts

FACTS = TrainingFacts("0123456789ab", 60, {10: 16, 20: 26, 30: 18}, 5.9, "", True)
"""Those of the sample."""
MINUTES = 1440
START = datetime(2026, 11, 2, tzinfo=UTC)


def simulated_rows(seed: int, days: int = 14) -> pd.DataFrame:
    """The rows of a camera at which nothing changes."""
    rng = np.random.default_rng(seed)
    minutes = np.arange(days * MINUTES)
    of_day = np.sin(2 * np.pi * (minutes / MINUTES - 0.3))
    people = 24 + 8 * of_day + 2 * slow_noise(rng, len(minutes)) + daily(rng, days, 1.5)
    width = 5.9 * np.sqrt(people.clip(4) / 25) * np.exp(daily(rng, days, 0.05))
    logs = np.log(0.6) + 0.1 * slow_noise(rng, len(minutes)) + daily(rng, days, 0.05)
    return pd.DataFrame(
        {
            "time": pd.to_datetime(START) + pd.to_timedelta(minutes, unit="min"),
            "camera": "hall",
            "zone": "",
            "people": people.round().clip(0).astype(int),
            "width": (width + rng.normal(0, 1, len(minutes))).round().clip(0).astype(int),
            "suspect": "",
            "distance": np.exp(logs).round(3),
            "adapter": FACTS.adapter,
        }
    )


def slow_noise(rng: np.random.Generator, number: int) -> np.ndarray:
    """Of standard deviation 1. Half of a value is left after 20 minutes."""
    kept = 0.5 ** (1 / 20)
    steps = rng.normal(0, np.sqrt(1 - kept**2), number).tolist()
    values = [float(rng.normal())]
    for step in steps[1:]:
        values.append(kept * values[-1] + step)
    return np.array(values)


def daily(rng: np.random.Generator, days: int, spread: float) -> np.ndarray:
    """A level for each day, by the minute."""
    return np.repeat(rng.normal(0, spread, days), MINUTES)


def last_days(rows: pd.DataFrame, days: float) -> pd.Series:
    return rows["time"] > rows["time"].max() - pd.Timedelta(days=days)


def move(rows: pd.DataFrame) -> None:
    """As a camera that was moved by 10 % two days ago."""
    rows.loc[last_days(rows, 2), "distance"] *= 3


def dirty(rows: pd.DataFrame) -> None:
    """A lens that has become a little dirty: no picture is unlike the training yet."""
    rows.loc[last_days(rows, 7), "distance"] *= 1.3


def crowd(rows: pd.DataFrame) -> None:
    """A sale: for three days, there are 14 people more."""
    rows.loc[last_days(rows, 3), "people"] += 14


def unsure(rows: pd.DataFrame) -> None:
    """The intervals are twice as wide."""
    rows.loc[last_days(rows, 7), "width"] *= 2


CHANGES: dict[str, Callable[[pd.DataFrame], None]] = {
    "nothing": lambda rows: None, "moved two days ago": move, "lens a little dirty": dirty,
    "14 people more for three days": crowd, "intervals twice as wide": unsure,
}  # fmt: skip


def compared(seed: int, change: Callable[[pd.DataFrame], None], days: int = 7) -> ZoneReadings:
    rows = simulated_rows(seed)
    change(rows)
    (zone,) = split_zones(rows, days, FACTS)
    return zone


def main(weeks: int) -> None:
    sys.stdout.write(f"{weeks} weeks each; at most {CHANCE:.0%} should be marked by chance\n")
    for name, change in CHANGES.items():
        for days in (7, 1):
            marked = sum(bool(compared(seed, change, days).signs()) for seed in range(weeks))
            sys.stdout.write(f"{name}, --days {days}: {marked} of {weeks} are marked\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
