"""One row per frame on standard output: as a table, CSV or JSON Lines."""

import csv
import io
import json
import sys
from collections.abc import Sequence
from typing import Literal

from tqdm import tqdm

from llava_dvc.data.data_errors import printable_name
from llava_dvc.errors import UserError
from llava_dvc.files import csv_name
from llava_dvc.serving.counter import Count
from llava_dvc.serving.sources import Source, SourceFrame

RowFormat = Literal["table", "csv", "jsonl"]
MAX_WIDTH = 48  # characters of a frame's name in the table
TIME_WIDTH = 9  # characters of `#t=3600.5`, which follows the path of a video


class RowWriter:
    """Writes the header when it is made, then one row a call."""

    def __init__(self, row_format: RowFormat, sources: Sequence[Source]) -> None:
        self._format = row_format
        longest = max(
            len(printable_name(str(one.path))) + TIME_WIDTH * one.is_video for one in sources
        )
        self._width = min(longest, MAX_WIDTH)
        if row_format == "table":
            print_row(f"{'frame':<{self._width}}  count  80 %      most likely")
        elif row_format == "csv":
            print_row("frame,count,low,high")

    def write_row(self, frame: SourceFrame, count: Count) -> None:
        match self._format:
            case "table":
                print_row(_table_row(frame, count, self._width))
            case "csv":
                print_row(_csv_row(frame, count))
            case "jsonl":
                print_row(_json_row(frame, count))


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


def _table_row(frame: SourceFrame, count: Count, width: int) -> str:
    shown = printable_name(frame.name)
    name = shown if len(shown) <= width else "…" + shown[1 - width :]
    likely = ", ".join(f"{number} ({share:.0%})" for number, share in count.most_likely())
    interval = f"{count.low}-{count.high}"
    return f"{name:<{width}}  {count.count:>5}  {interval:<8}  {likely}"


def _csv_row(frame: SourceFrame, count: Count) -> str:
    text = io.StringIO()  # the csv module quotes names with commas and quotes
    row = csv_name(printable_name(frame.name)), count.count, count.low, count.high
    csv.writer(text, lineterminator="").writerow(row)
    return text.getvalue()


def _json_row(frame: SourceFrame, count: Count) -> str:
    row = {"frame": frame.name} | ({} if frame.seconds is None else {"seconds": frame.seconds})
    text = json.dumps(row | count.summary(), ensure_ascii=False, allow_nan=False)
    # The same name, but no terminal obeys it.
    text = "".join(char if char.isprintable() else json.dumps(char)[1:-1] for char in text)
    try:
        text.encode(sys.stdout.encoding)
    except UnicodeEncodeError:
        return json.dumps(row | count.summary(), allow_nan=False)
    return text
