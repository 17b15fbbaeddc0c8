"""Files of an archive: what is counted, its camera, its time, and the blocks of work."""

from datetime import date, datetime

import fsspec
import pytest

from llava_dvc.archive.blocks import archive_file, cut_blocks, list_files
from llava_dvc.archive.reading import read_block
from llava_dvc.errors import UserError
from tests.conftest import frame


@pytest.fixture
def archive(tmp_path):
    for name in ("hall/2.jpg", "hall/10.jpg", "door/2026-11-26/1.jpg", "door/clip.mp4", "a.txt"):
        path = tmp_path / "archive" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path / "archive"


def names(files, root):
    return [file.path.removeprefix(f"{root}/") for file in files]


@pytest.mark.parametrize(
    ("path", "camera", "day", "time"),
    [
        ("hall/2026-11-26/08-30-05.jpg", "hall", date(2026, 11, 26), (8, 30, 5)),
        ("hall/20261126T083005.jpg", "hall", date(2026, 11, 26), (8, 30, 5)),
        ("hall/out_20261126083005_7.jpg", "hall", date(2026, 11, 26), (8, 30, 5)),
        ("hall/2026-11-26/17.jpg", "hall", date(2026, 11, 26), None),
        ("hall/2026-11-26/000017.jpg", "hall", date(2026, 11, 26), None),
        ("hall/2026-11-26/88-30-05.jpg", "hall", date(2026, 11, 26), None),
        ("hall/2026-13-45/1.jpg", "hall", None, None),
        ("seq_000001.jpg", "archive", None, None),
    ],
)
def test_the_path_says_the_camera_and_the_time(path, camera, day, time):
    found = archive_file(f"/srv/archive/{path}", "/srv/archive")
    assert (found.camera, found.day) == (camera, day)
    assert found.time == (time and datetime(2026, 11, 26, *time))


def test_folders_globs_and_files_are_listed_in_natural_order_each_once(archive, capsys):
    everything = ["door/2026-11-26/1.jpg", "door/clip.mp4", "hall/2.jpg", "hall/10.jpg"]
    assert names(list_files([str(archive)]), archive) == everything
    assert "1 other files are not counted" in capsys.readouterr().err
    some = list_files([f"{archive}/hall/*.jpg", f"{archive}/hall/2.jpg", f"{archive}/d*r"])
    assert names(some, archive) == ["hall/2.jpg", "hall/10.jpg", *everything[:2]]
    (one,) = list_files([f"{archive}/hall/2.jpg"])
    assert one.camera == "hall"
    assert {file.camera for file in list_files([f"{archive}/*/*.jpg"])} == {"hall"}
    assert {file.camera for file in list_files([f"{archive}/*/**"])} == {"hall", "door"}


def test_a_source_without_frames_is_one_line(archive):
    with pytest.raises(UserError, match=r"nowhere: not found\. Correct the path"):
        list_files([f"{archive}/nowhere"])
    with pytest.raises(UserError, match=r"contains no picture and no video"):
        list_files([f"{archive}/a.txt"])
    with pytest.raises(UserError, match=r"nosuch://bucket: cannot be listed \(Protocol not known"):
        list_files(["nosuch://bucket"])


def test_a_block_is_of_one_camera_and_day_and_leaves_out_what_is_done(archive):
    files = list_files([str(archive)])
    assert [len(block.files) for block in cut_blocks(files, 2)] == [1, 1, 2]
    (hall,) = list(cut_blocks(files, 9, {file.path for file in files[:2]}))
    assert hall.files == tuple(files[2:])
    assert hall.key == next(cut_blocks(files[2:], 9)).key
    assert hall.key != next(cut_blocks(files[2:], 1)).key


def test_an_address_of_fsspec_is_read_as_a_local_file(tmp_path):
    frame(3).save(tmp_path / "1.png")
    system = fsspec.filesystem("memory")
    system.put_file(str(tmp_path / "1.png"), "/archive/hall/2026-11-26/1.png")
    system.pipe_file("/archive/hall/2026-11-26/2.png", b"no image")
    files = list_files(["memory://archive"])
    (block,) = cut_blocks(files, 9)
    one, broken, last = (table.to_pylist()[0] for table in read_block(block, 1.0, None))
    assert one["frame"] == "memory:///archive/hall/2026-11-26/1.png"
    assert (one["camera"], one["day"], one["error"]) == ("hall", date(2026, 11, 26), None)
    assert one["rgb"] == frame(3).tobytes()
    assert broken["error"].startswith("memory:///archive/hall/2026-11-26/2.png: is not in a known")
    assert (last["frame"], last["place"]) == (None, 2)
