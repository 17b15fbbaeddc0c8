"""An invalid folder: every problem is named, every valid row is kept, nothing is a traceback."""

import json
import shutil
import sys
from contextlib import chdir
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llava_dvc.data.data_errors import DataError, DataProblem, skippable_problems
from llava_dvc.data.frames import scan_data
from llava_dvc.data.imports.mall import default_messages
from llava_dvc.data.prepare import split_rows
from llava_dvc.data.split import FrameSplit
from llava_dvc.dataset import load_split, write_splits
from llava_dvc.stage_runner import run_stage
from stages import prepare
from tests.conftest import ROOT, frame

# --- the message ------------------------------------------------------------------------------


def bad(n: int, **changes: object) -> list[DataProblem]:
    return [
        DataProblem("count", f"labels.csv:{i}", f"is {i}", f"{i}.jpg", **changes) for i in range(n)
    ]


def test_one_problem_is_one_line():
    assert str(DataError(bad(1))) == "labels.csv:0: is 0"


def test_an_error_lists_twenty_problems_counts_all_and_names_the_report():
    error = DataError([*bad(24), DataProblem("missing", "a.jpg", "is not there")])
    error.report = Path("prepared/report.json")
    head, *rows, last = str(error).splitlines()
    assert head == "25 problems: 24 count, 1 missing"
    assert len(rows) == 20
    assert rows[0] == "  count  labels.csv:0   is 0"
    assert rows[19] == "  count  labels.csv:19  is 19"
    assert last == "... and 5 more; all: prepared/report.json"


def test_at_most_max_skipped_problems_are_skipped():
    assert skippable_problems([], "stop", 0) == []
    assert skippable_problems(bad(2), "skip", 2) == bad(2)
    with pytest.raises(DataError) as caught:
        skippable_problems(bad(2), "stop", 2)
    assert caught.value.problems == bad(2)
    with pytest.raises(DataError) as caught:
        skippable_problems(bad(3), "skip", 2)
    first, *others = caught.value.problems
    assert str(first).startswith("params.yaml: data.max_skipped: is 2, but 3 rows or files")
    assert others == bad(3)
    with pytest.raises(DataError, match="is 0"):
        skippable_problems(bad(1, skippable=False), "skip", 2)


# --- any invalid folder -----------------------------------------------------------------------

GOOD = BytesIO()
frame(1).save(GOOD, format="JPEG")
IMAGE = GOOD.getvalue()

FATES = (
    "good",
    "count",
    "no file",
    "no label",
    "no picture",
    "empty",
    "cut",
    "twice",
    "two counts",
    "copy",
    "extra value",
    "open quote",
    "no text",
)
COUNTS = st.text(max_size=12).filter(
    lambda t: not t.strip().isdecimal() and not set(t) & set("\n\r")
)


@dataclass
class BrokenFolder:
    """A data folder: its files, the lines of its table, and the expected result."""

    files: dict[str, bytes]
    lines: list[bytes]
    good: set[str]
    bad_lines: set[int]
    bad_files: set[str]


@st.composite
def broken_folders(draw: st.DrawFn) -> BrokenFolder:
    comma = draw(st.sampled_from([b",", b";", b"\t"]))
    case = BrokenFolder({}, [], set(), set(), set())
    rows: list[tuple[bytes, bool]] = []
    for number, fate in enumerate(draw(st.lists(st.sampled_from(FATES), min_size=1, max_size=12))):
        name, row = f"seq_{number:06d}.jpg", b"%d%b%d" % (number, comma, number)
        content = IMAGE + bytes([number])  # bytes after the image's end: no two files are equal
        spoilt = {"no picture": b"?" + content, "empty": b"", "cut": content[:500]}
        if fate != "no file":
            case.files[name] = spoilt.get(fate, content)
        wrong = {
            "count": b"%d%b%b" % (number, comma, draw(COUNTS).encode("utf-8", "replace")),
            "extra value": row + comma + b"1",
            "open quote": row.replace(comma, comma + b'"'),
            "no text": row + b"\xff",
        }
        if fate == "no label":
            case.bad_files.add(name)
        else:
            fine = fate in ("good", "twice", "copy")
            rows.append((wrong.get(fate, row), not fine))
        if fate in ("twice", "two counts"):
            other = row if fate == "twice" else row + b"1"
            rows.append((b"0" + other, True))
        if fate == "copy":
            case.files[f"seq_1{number:05d}.jpg"] = content
            rows.append((b"1%05d%b%d" % (number, comma, number), True))
        if fate in ("good", "twice", "copy"):
            case.good.add(name)
        elif fate in ("extra value", "open quote", "no text"):
            case.bad_files.add(name)  # its row has no readable name
    blank = draw(st.booleans())
    end = draw(st.sampled_from([b"\n", b"\r\n"]))
    case.lines = [draw(st.sampled_from([b"", b"\xef\xbb\xbf"])) + b"id" + comma + b"count" + end]
    for line, (row, is_bad) in enumerate(rows):
        case.lines.append(row + end)
        if is_bad:
            case.bad_lines.add(len(case.lines))
        if blank and line % 3 == 0:
            case.lines.append(end)
    return case


def write(case: BrokenFolder, root: Path) -> Path:
    shutil.copy(ROOT / "presets" / "tiny.yaml", root / "params.yaml")
    data = root / "data"
    (data / "frames").mkdir(parents=True)
    for name, content in case.files.items():
        (data / "frames" / name).write_bytes(content)
    (data / "labels.csv").write_bytes(b"".join(case.lines))
    (data / "messages.txt").write_text(default_messages(), encoding="utf-8")
    return data


def expected_places(case: BrokenFolder) -> set[str]:
    files = {f"data/frames/{name}" for name in case.bad_files}
    return files | {f"data/labels.csv:{line}" for line in case.bad_lines}


def run_prepare() -> str | None:
    """The message that the stage ends with, None if it succeeds."""
    sys.argv = ["prepare", "data", "prepared"]
    try:
        run_stage(prepare.main)
    except SystemExit as end:
        return str(end.code)
    return None


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(broken_folders())
def test_every_bad_row_is_named_and_every_good_one_kept(case: BrokenFolder):
    with TemporaryDirectory() as folder, chdir(folder), pytest.MonkeyPatch.context() as patch:
        patch.delenv("DVC_ROOT", raising=False)
        patch.setattr(sys, "argv", sys.argv)
        write(case, Path(folder))
        found = scan_data(Path("data"), ())
        assert {f.name for f in found.frames} == case.good
        named = {problem.place for problem in found.problems if problem.kind != "nothing"}
        assert named == expected_places(case)
        if expected_places(case):
            error = run_prepare()
            assert error
            assert error.startswith("error: ")
            report = json.loads(Path("prepared/report.json").read_text(encoding="utf-8"))
            assert {row["place"] for row in report["rejected"]} >= expected_places(case)
            assert sum(report["rejected_by_kind"].values()) == len(report["rejected"])
            assert [path.name for path in Path("prepared").iterdir()] == ["report.json"]
        if case.good:
            assert skippable_problems(found.problems, "skip", len(found.problems)) == found.problems
            everything = FrameSplit(list(range(len(found.frames))), [], [], [])
            write_splits(Path("kept"), split_rows(found.frames, found.conversations, everything, 0))
            kept = load_split(Path("kept"), "train")
            assert set(kept["frame"]) == case.good
            assert all(int(row["frame"][4:10]) == row["count"] for row in kept)


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(labels=st.binary(max_size=200), messages=st.binary(max_size=200), picture=st.binary())
def test_no_bytes_end_in_a_traceback(labels: bytes, messages: bytes, picture: bytes):
    """Any bytes in the three files give an error with its place."""
    with TemporaryDirectory() as folder, chdir(folder), pytest.MonkeyPatch.context() as patch:
        patch.delenv("DVC_ROOT", raising=False)
        patch.setattr(sys, "argv", sys.argv)
        lines = [b"id,count\n1,5\n", labels]
        case = BrokenFolder({"seq_000001.jpg": picture}, lines, set(), set(), set())
        data = write(case, Path(folder))
        (data / "messages.txt").write_bytes(messages)
        error = run_prepare()
        assert error
        assert "data/labels.csv:2" in error
        assert "data/messages.txt" in error
        error.encode("utf-8")
