"""Rows of `llava-dvc watch`, read again."""

import math

import pytest

from llava_dvc.drift.read_rows import read_readings
from llava_dvc.errors import UserError
from llava_dvc.serving.watch.reading_log import ReadingLog
from tests.serving.watch.readings import reading

GOOD = (
    '{"time": "2026-11-26T08:00:00+00:00", "camera": "hall", "zone": null, "count": 5, "low": 2, '
    '"high": 8}\n'
)
"""Of a version that knew no distance and no adapter."""


def written(folder, row_format):
    log = ReadingLog(folder, row_format)
    for seconds, count in ((0, 5), (86400, 6)):
        log.write(reading(seconds, count, zone="tills", distance=0.5, adapter="0123456789ab"))
        log.write(reading(seconds, count, spread=2, suspect="black"))
    log.close()
    return sorted(folder.glob(f"readings-*.{row_format}"))


@pytest.mark.parametrize("row_format", ["jsonl", "csv"])
def test_what_watch_writes_is_read_again_in_order_of_time(tmp_path, row_format):
    first, second = written(tmp_path, row_format)
    rows = read_readings([second, first, first])
    assert rows["people"].tolist() == [5, 5, 6, 6]
    assert rows["width"].tolist() == [6, 4, 6, 4]
    assert rows["zone"].tolist() == ["tills", "", "tills", ""]
    assert rows["suspect"].tolist() == ["", "black"] * 2
    assert rows["distance"].dropna().tolist() == [0.5, 0.5]
    assert rows["adapter"].tolist() == ["0123456789ab", ""] * 2
    assert [str(time) for time in rows["time"][:1]] == ["2026-11-26 08:00:00+00:00"]


def test_rows_of_an_old_version_and_one_that_was_cut_off(tmp_path):
    path = tmp_path / "old.jsonl"
    path.write_text(GOOD + GOOD.replace("08:00", "08:01")[:-9])
    (row,) = read_readings([path]).to_dict("records")
    assert (row["people"], row["zone"], row["adapter"]) == (5, "", "")
    assert math.isnan(row["distance"])


BAD = [
    ("a.jsonl", "", "a.jsonl: has no rows. Name a file"),
    ("a.csv", "time,camera,count,low,high\n", "a.csv: has no rows. Name a file"),
    ("a.jsonl", GOOD + "oops\n", "a.jsonl:2: is no row of `llava-dvc watch`: it is not a JSON"),
    ("a.jsonl", GOOD + "[1]\n", "a.jsonl:2: is no row of `llava-dvc watch`: it is not a JSON"),
    ("a.jsonl", "[" * 99999 + "\n", "a.jsonl:1: is no row of `llava-dvc watch`: it is not a JSON"),
    ("a.jsonl", GOOD.replace("low", "lo"), "a.jsonl:1: is no row .*: it has no low. Correct"),
    ("a.jsonl", GOOD.replace(": 5", ": Infinity"), "a.jsonl:1: is no row .*: cannot convert"),
    ("a.jsonl", GOOD.replace(": 2,", ": 9,"), "count, low and high are 5, 9 and 8. Correct"),
    ("a.jsonl", GOOD.replace(": 8}", ": 80000}"), "count, low and high are 5, 2 and 80000"),
    ("a.jsonl", GOOD.replace("+00:00", ""), "a.jsonl:1: .*: its time has no offset from UTC"),
    ("a.jsonl", GOOD.replace('"2026-11-26T08:00:00+00:00"', "7"), "a.jsonl:1: is no row of"),
    ("a.csv", "time,camera,count\n1,2,3\n", "a.csv:1: is no row .* the head .* has no low"),
    ("a.csv", "time,camera,count,low,high\n2026-11-26T08:00Z,a,x,1,1\n", "a.csv:2: .* 'x'"),
    ("a.jsonl", b"\xff\n", "a.jsonl: is no row of `llava-dvc watch`: it is not UTF-8"),
]


@pytest.mark.parametrize(("name", "content", "message"), BAD)
def test_what_is_no_row_is_one_line_with_its_place(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message) as caught:
        read_readings([path])
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"gone\.jsonl: cannot be read \(No such file"):
        read_readings([tmp_path / "gone.jsonl"])
