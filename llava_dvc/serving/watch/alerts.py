"""Alerts: rules such as `hall > 40 for 60s`, and when they switch on and off."""

import re
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Literal

from llava_dvc.errors import UserError
from llava_dvc.serving.watch.reading import Reading

UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}
MAX_PAUSE = 3
"""Readings. A longer pause between two readings says nothing, and the time starts again."""

_RULE = re.compile(
    r"\s*(?P<camera>[\w.-]+)(?:/(?P<zone>.+?))?\s*(?P<sign>[<>])\s*(?P<number>\d{1,6})"
    r"\s+for\s+(?P<time>\d{1,6}(?:\.\d{1,3})?)\s*(?P<unit>[smh])\s*"
)


@dataclass(frozen=True)
class AlertRule:
    """`text` is the rule as the user wrote it."""

    text: str
    camera: str
    above: bool
    """True for `>`, False for `<`."""
    number: int
    seconds: float
    zone: str | None = None
    """None is the whole frame."""

    def is_of(self, reading: Reading) -> bool:
        return (self.camera, self.zone) == (reading.camera, reading.zone)

    def wants(self, on: bool, reading: Reading) -> bool:
        """Says if a reading speaks against the state: for on if it is off, for off if it is on.

        The whole interval must lie beyond the number to switch on, but half of it on this side is
        enough to switch off. Between the two nothing happens.
        """
        found = reading.best
        if self.above:
            return found.count <= self.number if on else found.low > self.number
        return found.count >= self.number if on else found.high < self.number


@dataclass(frozen=True)
class AlertEvent:
    """An alert has switched on or off."""

    rule: AlertRule
    state: Literal["on", "off"]
    since: datetime
    """The first of the readings that switched it."""
    reading: Reading
    """The last of them."""

    def content(self) -> dict[str, Any]:
        """The values for the webhook."""
        return {
            "alert": self.rule.text,
            "camera": self.rule.camera,
            "zone": self.rule.zone,
            "state": self.state,
            "since": self.since.isoformat(timespec="milliseconds"),
            "time": self.reading.time.isoformat(timespec="milliseconds"),
            **asdict(self.reading.best),
        }


class Alert:
    """The state of one rule: switched when all readings for its time speak against the state."""

    def __init__(self, rule: AlertRule, every: float) -> None:
        """`every` is the time between two readings."""
        self.rule, self.on = rule, False
        self._max_pause = MAX_PAUSE * every
        self._since: datetime | None = None
        """When the readings began that speak against the state."""
        self._last: datetime | None = None

    def step(self, reading: Reading) -> AlertEvent | None:
        """Takes the next reading of the camera. Returns the event if the alert switches.

        A suspect reading says nothing.
        """
        if reading.suspect:
            return None
        last, self._last = self._last, reading.time
        paused = last is None or (reading.time - last).total_seconds() > self._max_pause
        if not self.rule.wants(self.on, reading):
            self._since = None
            return None
        if self._since is None or paused or reading.time < self._since:
            self._since = reading.time
        since = self._since
        if (reading.time - since).total_seconds() < self.rule.seconds:
            return None
        self.on, self._since = not self.on, None
        return AlertEvent(self.rule, "on" if self.on else "off", since, reading)


def parse_alerts(
    texts: Sequence[str], cameras: Collection[str], zones: Sequence[str | None] = (None,)
) -> list[AlertRule]:
    """Reads the rules. `zones` are those in which all cameras are counted; None is none.

    Raises UserError for a rule that cannot be read, or of a camera or zone that is not watched.
    """
    return [_parse_alert(text, cameras, zones) for text in dict.fromkeys(texts)]


def _parse_alert(text: str, cameras: Collection[str], zones: Sequence[str | None]) -> AlertRule:
    found = _RULE.fullmatch(text)
    if found is None:
        raise UserError(
            f"--alert: is {text!r}. Write CAMERA > NUMBER for TIME, for example "
            "'hall > 40 for 60s' or, with a zone, 'hall/tills > 5 for 60s'; the time is in s, m or "
            "h, and < works too."
        )
    if found["camera"] not in cameras:
        raise UserError(
            f"--alert: {text!r}: there is no camera {found['camera']}. Choose one of: "
            f"{', '.join(cameras)}"
        )
    seconds = float(found["time"]) * UNITS[found["unit"]]
    above = found["sign"] == ">"
    zone = _choose_zone(text, found["zone"], zones)
    return AlertRule(text.strip(), found["camera"], above, int(found["number"]), seconds, zone)


def _choose_zone(text: str, name: str | None, zones: Sequence[str | None]) -> str | None:
    """The zone of a rule. A rule without one means the only zone there is."""
    if name in zones:
        return name
    if name is None and len(zones) == 1:
        return zones[0]
    known = ", ".join(zone for zone in zones if zone is not None)
    if not known:
        raise UserError(f"--alert: {text!r}: no zone is counted. Leave out /{name}.")
    problem = "names no zone" if name is None else f"no zone {name} is counted"
    raise UserError(f"--alert: {text!r}: {problem}. Write CAMERA/ZONE with one of: {known}")
