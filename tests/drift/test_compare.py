"""Simulated cameras: one at which nothing changes is not marked, one that changes is."""

import pandas as pd
import pytest

from benchmarks.drift_alarms import (
    CHANGES,
    FACTS,
    compared,
    crowd,
    dirty,
    last_days,
    move,
    simulated_rows,
    unsure,
)
from llava_dvc.drift.compare import FEWEST_HOURS, split_zones


@pytest.mark.parametrize("days", [1, 7])
def test_a_camera_at_which_nothing_changes_is_not_marked(days):
    found = [compared(seed, CHANGES["nothing"], days) for seed in range(10)]
    assert all(zone.is_enough for zone in found)
    assert [zone.signs() for zone in found] == [[]] * len(found)


@pytest.mark.parametrize(
    ("change", "sign"),
    [
        (move, "of its pictures are unlike the training frames"),
        (dirty, "its pictures are 1.3 times as far from the training frames as before"),
        (crowd, "of its counts are not within 10 to 39, where the held-out labels are"),
        (unsure, "its intervals are 1.9 times as wide as those of the held-out frames"),
    ],
)
def test_each_change_is_marked_with_its_reason(change, sign):
    (found,) = compared(1, change).signs()
    assert sign in found


def test_a_lens_that_was_dirty_before_is_no_change_of_the_last_day():
    assert compared(1, dirty, days=1).signs() == []
    assert compared(1, dirty, days=7).signs() != []


def test_blind_pictures_and_zones_that_were_not_evaluated_count_less():
    rows = simulated_rows(1)
    crowd(rows)
    other = rows.assign(zone="tills")
    crowded = last_days(rows, 3)
    rows.loc[crowded, "suspect"] = "blinded"
    whole, tills = split_zones(pd.concat([rows, other]).sort_values("time"), 7, FACTS)
    assert (whole.name, whole.blind, whole.signs()) == ("hall", int(crowded.sum()), [])
    assert (tills.name, tills.blind, tills.signs()) == ("hall/tills", 0, [])


def test_a_few_hours_are_not_enough_for_a_mark():
    rows = simulated_rows(1, days=1)
    move(rows)
    for hours, signs in ((FEWEST_HOURS - 1, 0), (FEWEST_HOURS, 1)):
        (zone,) = split_zones(rows[: hours * 60], 1, FACTS)
        assert (zone.is_enough, len(zone.signs())) == (bool(signs), signs)
