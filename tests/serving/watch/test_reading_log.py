"""Rows, and the files that they are appended to."""

import csv
import json
import resource

import pytest

from llava_dvc.errors import UserError
from llava_dvc.serving.watch.reading import Interval, header_line, reading_line
from llava_dvc.serving.watch.reading_log import ReadingLog
from tests.serving.watch.readings import reading

ROW = {
    "time": "2026-11-26T08:00:01.500+00:00", "camera": "hall", "zone": None, "count": 7, "low": 4,
    "high": 10, "smoothed": 8, "smoothed_low": 6, "smoothed_high": 9, "suspect": None,
    "distance": 0.517, "adapter": "0123456789ab",
}  # fmt: skip


@pytest.fixture
def log(tmp_path):
    opened = ReadingLog(tmp_path / "out", "jsonl")
    yield opened
    opened.close()


def lines(path):
    return [json.loads(line)["count"] for line in path.read_text().splitlines()]


def test_a_row_has_all_values_as_json_and_as_csv():
    one = reading(1.5, 7, smoothed=Interval(8, 6, 9), distance=0.51678, adapter="0123456789ab")
    assert json.loads(reading_line(one, "jsonl")) == ROW
    text = header_line("csv") + reading_line(one, "csv")
    (row,) = csv.DictReader(text.splitlines())
    assert row == {key: str("" if value is None else value) for key, value in ROW.items()}


def test_each_day_has_its_file_also_for_a_row_that_comes_late(log, tmp_path):
    for seconds, count in ((0, 1), (86400, 2), (10, 3), (86410, 4)):
        log.write(reading(seconds, count))
    assert lines(tmp_path / "out" / "readings-2026-11-26.jsonl") == [1, 3]
    assert lines(tmp_path / "out" / "readings-2026-11-27.jsonl") == [2, 4]


def test_a_row_that_was_cut_off_is_removed_and_whole_ones_stay(tmp_path):
    path = tmp_path / "readings-2026-11-26.csv"
    path.write_text(header_line("csv") + "1\n" * 100_000 + "2026-11-26T07:59,ha")
    log = ReadingLog(tmp_path, "csv")
    log.write(reading(0, 5))
    log.close()
    found = path.read_text().splitlines()
    assert found[:2] == [header_line("csv").strip(), "1"]
    assert found[-2:] == ["1", "2026-11-26T08:00:00.000+00:00,hall,,5,2,8,,,,,,"]


def test_a_file_that_is_one_cut_off_row_gets_its_header_again(tmp_path):
    path = tmp_path / "readings-2026-11-26.csv"
    path.write_text("time,cam")
    log = ReadingLog(tmp_path, "csv")
    log.write(reading(0, 5))
    log.close()
    assert [row["count"] for row in csv.DictReader(path.open())] == ["5"]


def test_rows_with_other_columns_are_put_aside(tmp_path):
    path = tmp_path / "readings-2026-11-26.csv"
    for old in ("time,camera,count\n08:00,hall,1\n", "time,camera\n08:00,hall\n"):
        path.write_text(old)
        log = ReadingLog(tmp_path, "csv")
        log.write(reading(0, 5))
        log.close()
        assert [row["count"] for row in csv.DictReader(path.open())] == ["5"]
    assert (tmp_path / "readings-2026-11-26.1.csv").read_text().startswith("time,camera,count\n")
    assert (tmp_path / "readings-2026-11-26.2.csv").read_text() == old


def test_a_row_that_does_not_fit_leaves_the_file_as_it_was(log, tmp_path):
    log.write(reading(0, 1))
    path = tmp_path / "out" / "readings-2026-11-26.jsonl"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 20, hard))
    try:
        with pytest.raises(OSError, match=r"No space left|File too large"):
            log.write(reading(2, 2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert lines(path) == [1]
    log.write(reading(4, 3))
    assert lines(path) == [1, 3]


def test_two_processes_cannot_write_to_one_folder(log, tmp_path):
    with pytest.raises(UserError, match=r"^--out: another process writes to .*/out\. Choose"):
        ReadingLog(tmp_path / "out", "csv")


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"^--out: .*/file: cannot be written \(.*\)\. Choose"):
        ReadingLog(tmp_path / "file", "csv")
