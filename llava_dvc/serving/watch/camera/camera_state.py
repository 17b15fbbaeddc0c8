"""What is known of one camera at a moment."""

from dataclasses import asdict, dataclass, field
from threading import Lock
from typing import Any, Literal, NamedTuple

from llava_dvc.serving.watch.camera.history import MinuteMeans
from llava_dvc.serving.watch.reading import Reading

Connection = Literal["connecting", "live", "waiting", "ended"]
FRESH_READINGS = 3
"""A reading is shown for so many times the interval, and at least FRESH_SECONDS."""
FRESH_SECONDS = 15.0


class CameraView(NamedTuple):
    """A camera as metrics and page show it."""

    connection: Connection
    frame_age: float | None
    """Seconds since the newest frame; None if there was none."""
    reading: Reading | None
    """The last one; None if it is too old to be true now."""
    reconnects: int
    reason: str = ""
    """Why it is not live."""
    hour: tuple[float | None, ...] = ()
    """Means of the last minutes."""

    def page_row(self) -> dict[str, Any]:
        """The values for the page."""
        suspect = self.reading and self.reading.suspect
        best = asdict(self.reading.best) if self.reading and not suspect else None
        age = None if self.frame_age is None else round(self.frame_age, 1)
        state = suspect or self.connection
        hour = [mean if mean is None else round(mean, 1) for mean in self.hour]
        return {"state": state, "reason": self.reason, "age": age, "people": best, "hour": hour}


@dataclass
class CameraState:
    """Changed by the threads of the camera, read by those of the server. Times are monotonic."""

    every: float
    connection: Connection = "connecting"
    reason: str = ""
    """Why the camera is not live."""
    reconnects: int = 0
    _frame_at: float | None = None
    _reading: tuple[float, Reading] | None = None
    _hour: MinuteMeans = field(default_factory=MinuteMeans)
    _lock: Lock = field(default_factory=Lock)

    def add_frame(self, now: float) -> None:
        with self._lock:
            self._frame_at = now
            self.connection, self.reason = "live", ""

    def add_reading(self, frame_came: float, reading: Reading) -> None:
        """`frame_came` is when the frame of the reading came."""
        with self._lock:
            self._reading = frame_came, reading
            if not reading.suspect:
                self._hour.add(frame_came, reading.best.count)

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
            came, reading = self._reading or (0.0, None)
            fresh = now - came <= max(FRESH_SECONDS, FRESH_READINGS * self.every)
            return CameraView(
                self.connection,
                age,
                reading if fresh else None,
                self.reconnects,
                self.reason,
                tuple(self._hour.means(now)),
            )
