"""One row per frame on standard output: as a table, CSV or JSON Lines."""

import csv
import io
import json
import sys
from collections.abc import Sequence
from typing import Any, Literal

from tqdm import tqdm

from llava_dvc.data.data_errors import printable_name
from llava_dvc.errors import UserError
from llava_dvc.files import csv_name
from llava_dvc.serving.counter import Count
from llava_dvc.serving.sources import Source, SourceFrame

RowFormat = Literal["table", "csv", "jsonl"]
MAX_WIDTH = 48  # characters of a frame's name in the table
ZONE_WIDTH = 12  # characters of a zone's name in the table
TIME_WIDTH = 9  # characters of `#t=3600.5`, which follows the path of a video


class RowWriter:
    """Writes the header when it is made, then one row a call."""

    def __init__(
        self, row_format: RowFormat, sources: Sequence[Source], with_zone: bool = False
    ) -> None:
        """`with_zone` adds a column with the name of the zone."""
        self._format, self._with_zone = row_format, with_zone
        longest = max(
            len(printable_name(str(one.path))) + TIME_WIDTH * one.is_video for one in sources
        )
        self._width = min(longest, MAX_WIDTH)
        if row_format == "table":
            zone = f"  {'zone':<{ZONE_WIDTH}}" if with_zone else ""
            print_row(f"{'frame':<{self._width}}{zone}  count  80 %      most likely")
        elif row_format == "csv":
            print_row(f"frame,{'zone,' * with_zone}count,low,high")

    def write_row(self, frame: SourceFrame, count: Count) -> None:
        zone = frame.zone.name if self._with_zone and frame.zone else None
        match self._format:
            case "table":
                print_row(_table_row(frame, count, self._width, zone))
            case "csv":
                print_row(_csv_row(frame, count, zone))
            case "jsonl":
                print_row(_json_row(frame, count, zone))


def print_row(text: str) -> None:
    """Prints `text` above the progress bar, and at once: another program may read along."""
    try:
        tqdm.write(text, file=sys.stdout)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has what it wants
        raise
    except OSError as error:
        raise UserError(
            f"standard output: cannot be written ({error.strerror}). Free some space, or write it "
            "to another disk."
        ) from None


def _table_row(frame: SourceFrame, count: Count, width: int, zone: str | None) -> str:
    name = _shortened(printable_name(frame.name), width)
    if zone is not None:
        name += f"  {_shortened(printable_name(zone), ZONE_WIDTH)}"
    likely = ", ".join(f"{number} ({share:.0%})" for number, share in count.most_likely())
    interval = f"{count.low}-{count.high}"
    return f"{name}  {count.count:>5}  {interval:<8}  {likely}"


def _shortened(text: str, width: int) -> str:
    """The end of `text`, `width` characters long."""
    return f"{text if len(text) <= width else '…' + text[1 - width :]:<{width}}"


def _csv_row(frame: SourceFrame, count: Count, zone: str | None) -> str:
    text = io.StringIO()  # the csv module quotes names with commas and quotes
    names = [csv_name(printable_name(name)) for name in (frame.name, zone) if name is not None]
    csv.writer(text, lineterminator="").writerow([*names, count.count, count.low, count.high])
    return text.getvalue()


def _json_row(frame: SourceFrame, count: Count, zone: str | None) -> str:
    row: dict[str, Any] = {"frame": frame.name}
    row |= {} if frame.seconds is None else {"seconds": frame.seconds}
    row |= {} if zone is None else {"zone": zone}
    text = json.dumps(row | count.summary(), ensure_ascii=False, allow_nan=False)
    # The same name, but no terminal obeys it.
    text = "".join(char if char.isprintable() else json.dumps(char)[1:-1] for char in text)
    try:
        text.encode(sys.stdout.encoding)
    except UnicodeEncodeError:
        return json.dumps(row | count.summary(), allow_nan=False)
    return text
