"""How the readings of a camera differ from the training, and if that is more than chance."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from scipy import stats

from llava_dvc.drift.training_facts import TrainingFacts

BLIND = ("black", "blinded", "frozen")
"""The counts of these pictures say nothing."""
OTHERS_SHARE = 0.05
"""Share of readings that may be unlike the training, on a camera without a mark."""
WIDER = 1.5
"""So many times the width of the held-out frames' intervals is too wide."""
FARTHER = 1.2
"""So many times the distance of the days before is too far."""
CHANCE = 0.01
"""Of a mark for a camera at which nothing has changed, at most, if its hours are independent."""
FEWEST_HOURS = 6
FEWEST_DAYS = 3
"""Before the period. With fewer it is not compared with them."""


@dataclass(frozen=True)
class ZoneReadings:
    """The readings of one camera in one zone."""

    camera: str
    zone: str
    """Empty for the whole frame."""
    rows: pd.DataFrame
    """Of the period, without those of blind pictures. Columns of ReadRow, and `day`: how many
    days before the newest row.
    """
    before: pd.DataFrame
    """The same of the days before the period, as far as the same adapter has counted."""
    blind: int
    """Readings of the period that are left out."""
    facts: TrainingFacts
    chance: float
    """CHANCE, divided by the number of cameras and zones."""

    @property
    def name(self) -> str:
        return f"{self.camera}/{self.zone}" if self.zone else self.camera

    @property
    def is_evaluated(self) -> bool:
        """Whether the evaluation counted in this zone."""
        return self.zone == self.facts.zone

    @cached_property
    def hours(self) -> pd.DataFrame:
        """The means of each hour: people, width, distance, and the shares `unlike`, `outside`."""
        return hourly_means(self.rows, self.facts)

    @property
    def is_enough(self) -> bool:
        return len(self.hours) >= FEWEST_HOURS

    def mean(self, column: str) -> float:
        """Of the hours; NaN if nothing is known."""
        return float(self.hours[column].mean())

    def signs(self) -> list[str]:
        """In words, what says that frames of this camera should be labelled."""
        return list(self._signs()) if self.is_enough else []

    def _signs(self) -> Iterator[str]:
        if self._is_above("unlike", OTHERS_SHARE):
            yield f"{self.mean('unlike'):.0%} of its pictures are unlike the training frames"
        elif (times := self.farther()) > FARTHER:
            yield f"its pictures are {times:.1f} times as far from the training frames as before"
        if self.is_evaluated and self._is_above("outside", OTHERS_SHARE):
            yield (
                f"{self.mean('outside'):.0%} of its counts are not within {self.facts.fewest} to "
                f"{self.facts.most}, where the held-out labels are"
            )
        if self.is_evaluated and self._is_above("width", WIDER * self.facts.width):
            times = self.mean("width") / self.facts.width
            yield f"its intervals are {times:.1f} times as wide as those of the held-out frames"

    def farther(self) -> float:
        """How many times as far as in the days before the pictures are; NaN if that is chance."""
        now, then = (daily_means(rows, "distance") for rows in (self.rows, self.before))
        if len(then) < FEWEST_DAYS or not len(now):
            return float("nan")
        chance = stats.ttest_ind(now, then, alternative="greater").pvalue
        return float(now.mean() / then.mean()) if chance < self.chance else float("nan")

    def _is_above(self, column: str, limit: float) -> bool:
        values = self.hours[column].dropna().to_numpy()
        return len(values) >= FEWEST_HOURS and lower_bound(values, self.chance) > limit


def lower_bound(values: np.ndarray, chance: float) -> float:
    """Below which the mean of all such values is with probability `chance` only."""
    spread = values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean() - stats.t.ppf(1 - chance, len(values) - 1) * spread)


def hourly_means(rows: pd.DataFrame, facts: TrainingFacts) -> pd.DataFrame:
    """The means of the hours that have readings, by the beginning of the hour."""
    distance = rows["distance"]
    table = rows[["people", "width", "distance"]].assign(
        unlike=(distance > 1).astype(float).where(distance.notna()),
        outside=~rows["people"].between(facts.fewest, facts.most),
    )
    return table.astype(float).groupby(rows["time"].dt.floor("h")).mean()


def daily_means(rows: pd.DataFrame, column: str) -> np.ndarray:
    """Of the days whose value is known."""
    return rows[column].groupby(rows["day"]).mean().dropna().to_numpy()


def split_zones(rows: pd.DataFrame, days: int, facts: TrainingFacts) -> list[ZoneReadings]:
    """The readings of each camera and zone. The period ends with the newest row of all.

    A day is 24 hours, and is counted back from there, so that every day has its whole night.
    """
    groups = rows.assign(day=(rows["time"].max() - rows["time"]).dt.days).groupby(
        ["camera", "zone"]
    )
    return [_zone_readings(of_zone, days, facts, CHANCE / len(groups)) for _, of_zone in groups]


def _zone_readings(
    rows: pd.DataFrame, days: int, facts: TrainingFacts, chance: float
) -> ZoneReadings:
    camera, zone = rows["camera"].iloc[0], rows["zone"].iloc[0]
    is_new, is_blind = rows["day"] < days, rows["suspect"].isin(BLIND)
    is_ours = rows["adapter"].isin(["", facts.adapter])
    return ZoneReadings(
        camera, zone, rows[is_new & ~is_blind], rows[~is_new & ~is_blind & is_ours],
        int((is_new & is_blind).sum()), facts, chance,
    )  # fmt: skip
