"""What an import has written, before it becomes `data/`: its checks, and what it keeps."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from llava_dvc.data.data_errors import DataError
from llava_dvc.data.frames import Frame, scan_frames, take_unlabelled
from llava_dvc.data.labels import RECORD, RECORD_COLUMNS, read_record
from llava_dvc.data.table import write_table
from llava_dvc.files import file_digest


class ImportRules(NamedTuple):
    """The settings of `data` that an import follows."""

    exclude: Sequence[str] = ()
    allow_unlabelled: bool = False
    """Pictures without a label stay without one, instead of being errors or being left out."""
    zone: str | None = None


STRICT = ImportRules()
"""Every picture has to have a label."""


def check_staged(staged: Path, rules: ImportRules) -> list[Frame]:
    """The labelled frames in `staged`; raises DataError with every problem.

    Names in `rules.exclude` that are not there are of other data, and are no problem.
    """
    frames, problems = scan_frames(staged, rules.exclude)
    problems = [problem for problem in problems if problem.kind != "exclude"]
    if rules.allow_unlabelled:
        _, problems = take_unlabelled(problems)
    if problems:
        raise DataError(problems)
    return frames


def keep_record(data: Path, staged: Path) -> None:
    """Copies to `staged` what was brought from Label Studio for frames that stay the same.

    Without it a later correction there would not be taken. The other rows are about frames that
    go. Raises UserError for a record that cannot be read.
    """
    if not (data / RECORD).is_file():
        return
    kept = [row for row in read_record(data / RECORD) if _is_same(data, staged, row[0])]
    if kept:
        write_table(staged / RECORD, RECORD_COLUMNS, kept)


def _is_same(data: Path, staged: Path, name: str) -> bool:
    before, now = data / "frames" / name, staged / "frames" / name
    return before.is_file() and now.is_file() and file_digest(before) == file_digest(now)
