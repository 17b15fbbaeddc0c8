"""When alerts switch on and off."""

import numpy as np
import pytest

from llava_dvc.errors import UserError
from llava_dvc.serving.watch.alerts import Alert, parse_alerts
from llava_dvc.serving.watch.reading import Interval
from tests.serving.watch.readings import reading


def switches(rule, counts, every=2.0, times=None, **changed):
    """The state and the seconds of each event, for these counts."""
    (parsed,) = parse_alerts([rule], ["hall"])
    alert = Alert(parsed, every)
    times = times or [every * place for place in range(len(counts))]
    events = [
        alert.step(reading(time, count, **changed))
        for time, count in zip(times, counts, strict=True)
    ]
    return [(event.state, time) for event, time in zip(events, times, strict=True) if event]


def test_it_fires_when_the_whole_interval_is_above_for_the_time():
    assert switches("hall > 40 for 10s", [44] * 9) == [("on", 10)]
    assert switches("hall > 40 for 10s", [43] * 9) == []  # low is 40


def test_one_reading_that_jumps_fires_nothing():
    counts = [10, 90, 10, 10, 90, 90, 10, 90, 90, 90, 90, 10]
    assert switches("hall > 40 for 10s", counts) == []


def test_it_clears_after_the_same_time_at_or_below_the_number():
    counts = [50] * 6 + [42] * 10 + [40] * 6
    assert switches("hall > 40 for 10s", counts) == [("on", 10), ("off", 42)]


def test_noise_around_the_number_switches_once_on_and_once_off():
    random = np.random.default_rng(3)
    rise, stay, fall = np.linspace(20, 60, 300), np.full(300, 60), np.linspace(60, 20, 300)
    counts = (np.concatenate([rise, stay, fall]) + random.normal(0, 5, 900)).round().astype(int)
    crossings = np.count_nonzero(np.diff(counts > 40))
    assert crossings > 20
    assert [state for state, _ in switches("hall > 40 for 60s", counts.tolist())] == ["on", "off"]


def test_below_works_alike():
    counts = [1] * 4 + [5] * 8 + [3] * 5
    assert switches("hall < 5 for 6 s", counts, spread=2) == [("on", 6), ("off", 14)]


def test_a_pause_starts_the_time_again():
    times = [0, 2, 4, 30, 32, 34, 36, 38, 40]
    assert switches("hall > 40 for 10s", [60] * 9, times=times) == [("on", 40)]


def test_suspect_readings_say_nothing():
    assert switches("hall > 40 for 4s", [60] * 9, suspect="frozen") == []


def test_the_smoothed_interval_counts_if_there_is_one():
    assert switches("hall > 40 for 4s", [60] * 9, smoothed=Interval(45, 39, 50)) == []
    assert switches("hall > 40 for 4s", [20] * 9, smoothed=Interval(45, 41, 50)) == [("on", 4)]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("hall>3 for 90s", 90), (" hall < 3 for 1.5 m ", 90), ("hall > 0 for 2h", 7200)],
)
def test_times_have_units(text, seconds):
    (rule,) = parse_alerts([text], ["hall"])
    assert (rule.seconds, rule.text) == (seconds, text.strip())


@pytest.mark.parametrize(
    "text", ["", "hall", "hall > 40", "hall >= 4 for 3s", "hall > 4.5 for 3s", "hall > 4 for 3"]
)
def test_a_rule_that_cannot_be_read_is_one_line(text):
    with pytest.raises(UserError, match=r"^--alert: is '.*'\. Write CAMERA > NUMBER for TIME"):
        parse_alerts([text], ["hall"])


def test_a_rule_may_name_a_zone():
    rules = ["hall/tills > 40 for 0s", "hall/way out<1 for 0s"]
    tills, way_out = parse_alerts(rules, ["hall"], ["tills", "way out"])
    assert (tills.zone, way_out.zone) == ("tills", "way out")
    assert tills.is_of(reading(0, 50, zone="tills"))
    assert not tills.is_of(reading(0, 50, zone="way out"))
    assert not tills.is_of(reading(0, 50))
    event = Alert(tills, 2.0).step(reading(0, 50, zone="tills"))
    assert (event.content()["camera"], event.content()["zone"]) == ("hall", "tills")
    (only,) = parse_alerts(["hall > 40 for 0s"], ["hall"], ["tills"])
    assert only.zone == "tills"


@pytest.mark.parametrize(
    ("rule", "zones", "line"),
    [
        ("hall > 4 for 3s", ["tills", "door"], "names no zone. Write CAMERA/ZONE"),
        ("hall/roof > 4 for 3s", ["tills"], "no zone roof is counted. Write CAMERA/ZONE"),
        ("hall/roof > 4 for 3s", [None], "no zone is counted. Leave out /roof."),
    ],
)  # fmt: skip
def test_a_rule_needs_a_zone_that_is_counted(rule, zones, line):
    with pytest.raises(UserError) as caught:
        parse_alerts([rule], ["hall"], zones)
    said, _, known = str(caught.value).partition(" with one of: ")
    assert said == f"--alert: {rule!r}: {line}"
    assert known == ", ".join(filter(None, zones))


def test_a_rule_needs_a_camera_that_is_watched():
    with pytest.raises(UserError, match=r"there is no camera stairs\. Choose one of: hall, door"):
        parse_alerts(["stairs > 4 for 3s"], ["hall", "door"])
