"""One reading of a camera, and its row."""

import csv
import io
import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

ReadingFormat = Literal["jsonl", "csv"]


@dataclass(frozen=True)
class Interval:
    """A count, and its 80 % interval."""

    count: int
    low: int
    high: int


@dataclass(frozen=True)
class Reading:
    """The count of one frame of a camera, in one zone."""

    time: datetime
    """When the frame came, in UTC."""
    camera: str
    alone: Interval
    """Of the frame alone."""
    smoothed: Interval | None = None
    """Given the frames before it too; None if the adapter has no smoothing."""
    suspect: str | None = None
    """Why the camera may not see what is there."""
    zone: str | None = None
    """In which people are counted; None is the whole frame."""
    distance: float | None = None
    """From the training frames: above 1 the frame is unlike them. None if that is not known."""
    adapter: str | None = None
    """Which adapter counted: the first ADAPTER_DIGITS of its sha256."""

    @property
    def best(self) -> Interval:
        return self.smoothed or self.alone

    def row(self) -> dict[str, Any]:
        """The values of the row. The keys are those of every row, in this order."""
        return {
            "time": self.time.isoformat(timespec="milliseconds"),
            "camera": self.camera,
            "zone": self.zone,
            "count": self.alone.count,
            "low": self.alone.low,
            "high": self.alone.high,
            "smoothed": self.smoothed and self.smoothed.count,
            "smoothed_low": self.smoothed and self.smoothed.low,
            "smoothed_high": self.smoothed and self.smoothed.high,
            "suspect": self.suspect,
            "distance": None if self.distance is None else round(self.distance, 3),
            "adapter": self.adapter,
        }


COLUMNS = ("time", "camera", "zone", "count", "low", "high", "smoothed", "smoothed_low",
           "smoothed_high", "suspect", "distance", "adapter")  # fmt: skip
ADAPTER_DIGITS = 12


def reading_line(reading: Reading, row_format: ReadingFormat) -> str:
    """Returns the row with its line end."""
    row = reading.row()
    return f"{json.dumps(row)}\n" if row_format == "jsonl" else _csv_line(row.values())


def header_line(row_format: ReadingFormat) -> str:
    """Returns the first line of a file: empty for JSON Lines."""
    return "" if row_format == "jsonl" else _csv_line(COLUMNS)


def _csv_line(values: Any) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(values)
    return text.getvalue()
