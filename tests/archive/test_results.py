"""The folder of a counted archive: what is finished, what is not, and who may write."""

from datetime import date

import pytest

from llava_dvc.archive.blocks import Block, archive_file
from llava_dvc.archive.results import ResultFolder
from llava_dvc.errors import UserError
from tests.archive.conftest import counted, failed, rows_of

BLOCK = Block((archive_file("/a/h 1/1.jpg", "/a"), archive_file("/a/h 1/2.jpg", "/a")))


def row(frame, day, error=None):
    shares = {"count": 3, "low": 2, "high": 5, "probabilities": [0.25, 0.75]}
    names = {"camera": "h 1", "file": frame.partition("#")[0], "frame": frame, "day": day}
    return names | {"time": None, "error": error} | shares


def test_a_block_goes_to_its_camera_and_days(results, tmp_path):
    days = date(2026, 11, 26), None
    results.seal(BLOCK, [row("1", days[0]), row("2", days[1]), row("3", None, "3: is empty")])
    assert results.write_failed() == 1
    assert failed(tmp_path / "out") == {"3": "3: is empty"}
    assert counted(tmp_path / "out") == dict.fromkeys("12", (3, 2, 5, [0.25, 0.75]))
    found = {(one["frame"], one["camera"], one["day"]) for one in rows_of(tmp_path / "out")}
    assert found == {("1", "h 1", "2026-11-26"), ("2", "h 1", "unknown")}
    assert results.finished_files() == {"1", "2"}


def test_only_files_without_a_count_are_tried_again(results, tmp_path):
    """The second one of a block, of another camera's block, and of a video that breaks off."""
    one, two, other = "/a/h 1/1.jpg", "/a/h 1/2.jpg", "/a/door/1.jpg"
    video = "/a/h 1/clip.mp4"
    results.seal(BLOCK, [row(one, None), row(two, None, "2: is empty")])
    clip = [row(f"{video}#t=0", None), row(video, None, "clip: breaks off")]
    results.seal(Block((archive_file(video, "/a"),)), clip)
    door = Block((archive_file(other, "/a"),))
    results.seal(door, [row(other, None, "1: is empty")])
    assert results.finished_files() == {one, video}

    again = Block((archive_file(two, "/a"),))
    assert results.forget_failures([again]) == 1
    results.seal(again, [row(two, None)])
    results.write_failed()
    assert results.finished_files() == {one, two, video}
    assert set(failed(tmp_path / "out")) == {other, video}
    assert set(counted(tmp_path / "out")) == {one, two, f"{video}#t=0"}

    for _ in range(2):
        assert results.forget_failures([door]) == 1
        results.seal(door, [row(other, None, "1: is still empty")])
        assert results.write_failed() == 2
    assert failed(tmp_path / "out")[other] == "1: is still empty"


def test_what_an_unfinished_block_left_is_removed(results, tmp_path):
    results.seal(BLOCK, [row("1", None)])
    (kept,) = (tmp_path / "out" / "counts").rglob("*.parquet")
    for name in ("other.parquet", f"{kept.name}.partial"):
        kept.with_name(name).write_bytes(b"half")
    results.close()
    with pytest.raises(UserError, match=r"has counts with adapter a, not b\. Choose another"):
        ResultFolder(tmp_path / "out", {"adapter": "b"})
    ResultFolder(tmp_path / "out", {"adapter": "a"}).close()
    assert list(kept.parent.iterdir()) == [kept]


def test_one_command_writes_at_a_time(results, tmp_path):
    with pytest.raises(UserError, match=r"^--out: another command writes to .*out\. Wait for it"):
        ResultFolder(tmp_path / "out", {"adapter": "a"})
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"^--out: .*file cannot be written \(Not a directory\)"):
        ResultFolder(tmp_path / "file", {})
