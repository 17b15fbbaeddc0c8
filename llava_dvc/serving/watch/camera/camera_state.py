"""What is known of one camera at a moment."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from threading import Lock
from typing import Any, Literal, NamedTuple

from llava_dvc.serving.watch.camera.history import MinuteMeans
from llava_dvc.serving.watch.camera.shown_picture import ShownPicture
from llava_dvc.serving.watch.reading import Reading

Connection = Literal["connecting", "live", "waiting", "ended"]
FRESH_READINGS = 3
"""A reading is shown for so many times the interval, and at least FRESH_SECONDS."""
FRESH_SECONDS = 15.0


class ZoneView(NamedTuple):
    """One zone of a camera as metrics and page show it."""

    name: str | None
    """None is the whole frame."""
    reading: Reading | None
    """The last one; None if it is too old to be true now."""
    hour: tuple[float | None, ...]
    """Means of the last minutes."""

    def page_row(self) -> dict[str, Any]:
        """The values for the page. A suspect count is not shown."""
        shown = self.reading and not self.reading.suspect
        best = asdict(self.reading.best) if self.reading and shown else None
        hour = [mean if mean is None else round(mean, 1) for mean in self.hour]
        return {"zone": self.name, "people": best, "hour": hour}


class CameraView(NamedTuple):
    """A camera as metrics and page show it."""

    connection: Connection
    frame_age: float | None
    """Seconds since the newest frame; None if there was none."""
    zones: tuple[ZoneView, ...]
    reconnects: int
    reason: str = ""
    """Why it is not live."""

    @property
    def reading(self) -> Reading | None:
        """Of the first zone that has one. All zones are suspect together."""
        return next((zone.reading for zone in self.zones if zone.reading), None)

    def page_row(self) -> dict[str, Any]:
        """The values for the page."""
        suspect = self.reading and self.reading.suspect
        age = None if self.frame_age is None else round(self.frame_age, 1)
        zones = [zone.page_row() for zone in self.zones]
        state = suspect or self.connection
        return {"state": state, "reason": self.reason, "age": age, "zones": zones}


@dataclass
class CameraState:
    """Changed by the threads of the camera, read by those of the server. Times are monotonic."""

    every: float
    zones: Sequence[str | None] = (None,)
    """In which people are counted; None is the whole frame."""
    offset: float = 0.0
    """Of the moments of its readings; see pacing."""
    connection: Connection = "connecting"
    reason: str = ""
    """Why the camera is not live."""
    reconnects: int = 0
    picture: ShownPicture | None = None
    """None if no picture is shown."""
    _frame_at: float | None = None
    _readings: dict[str | None, tuple[float, Reading]] = field(default_factory=dict)
    _hours: defaultdict[str | None, MinuteMeans] = field(
        default_factory=lambda: defaultdict(MinuteMeans)
    )
    _lock: Lock = field(default_factory=Lock)

    def add_frame(self, now: float) -> None:
        with self._lock:
            self._frame_at = now
            self.connection, self.reason = "live", ""

    def add_reading(self, frame_came: float, reading: Reading) -> None:
        """`frame_came` is when the frame of the reading came."""
        with self._lock:
            self._readings[reading.zone] = frame_came, reading
            if not reading.suspect:
                self._hours[reading.zone].add(frame_came, reading.best.count)

    def lose(self, reason: str, connection: Connection = "waiting") -> None:
        """The connection has ended for good, or until the next attempt."""
        with self._lock:
            self.connection, self.reason = connection, reason

    def count_attempt(self) -> None:
        with self._lock:
            self.reconnects += 1

    def view(self, now: float) -> CameraView:
        with self._lock:
            age = None if self._frame_at is None else max(0.0, now - self._frame_at)
            zones = tuple(self._view_zone(zone, now) for zone in self.zones)
            return CameraView(self.connection, age, zones, self.reconnects, self.reason)

    def _view_zone(self, zone: str | None, now: float) -> ZoneView:
        came, reading = self._readings.get(zone, (0.0, None))
        fresh = now - came <= max(FRESH_SECONDS, FRESH_READINGS * self.every)
        return ZoneView(zone, reading if fresh else None, tuple(self._hours[zone].means(now)))
