"""Which files and frames `llava-dvc predict` counts."""

import pytest

from llava_dvc.errors import UserError
from llava_dvc.serving.sources import find_sources


def test_globs_folders_and_files_are_found_once_in_natural_order(images, clip, monkeypatch):
    monkeypatch.chdir(images.parent)
    found = [
        source.path.as_posix() for source in find_sources(["cam/10.png", "cam", "*.mp4", "cam/*"])
    ]
    assert found == ["cam/10.png", "cam/1.png", "cam/2.png", "clip.mp4"]


def test_a_glob_without_a_match_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"\*\.jpg: not found\. Correct the path\."):
        find_sources([str(tmp_path / "*.jpg")])


def names(sources):
    return [source.path.name for source in sources]


def test_a_folder_gives_pictures_and_clips_of_any_name(images, clip, capsys):
    clip.rename(images / "11.mts")
    (images / "12").write_bytes((images / "1.png").read_bytes())
    found = find_sources([str(images)])
    assert names(found) == ["1.png", "2.png", "10.png", "11.mts", "12"]
    assert [source.is_video for source in found] == [False, False, False, True, False]
    note = f"note: 1 file is neither picture nor video and not counted: {images}/notes.txt\n"
    assert capsys.readouterr().err == note


def test_a_glob_that_matches_folders_gives_what_is_in_them(images, clip, monkeypatch):
    monkeypatch.chdir(images.parent)
    assert names(find_sources(["c*"])) == ["1.png", "2.png", "10.png", "clip.mp4"]
    assert names(find_sources(["**/*"])) == ["1.png", "2.png", "10.png", "clip.mp4"]


def test_a_folder_of_clips_is_found(clip, tmp_path):
    (tmp_path / "clips").mkdir()
    clip.rename(tmp_path / "clips" / "morning")
    assert names(find_sources([str(tmp_path / "clips")])) == ["morning"]


def test_a_folder_without_frames_is_an_error_of_its_own(tmp_path):
    empty = tmp_path / "cam"
    empty.mkdir()
    with pytest.raises(
        UserError, match=r"cam: contains no file\. Put pictures \(JPEG.*\) or videos"
    ):
        find_sources([str(empty)])
    (empty / "notes.txt").write_text("nothing")
    with pytest.raises(
        UserError, match=r"cam: contains only other files \(.*notes\.txt\)\. Put pict"
    ):
        find_sources([str(empty)])
    with pytest.raises(UserError, match=r"notes\.txt: is neither a picture \(JPEG.* nor a video"):
        find_sources([str(empty / "notes.txt")])
    with pytest.raises(UserError, match=r"gone: not found\. Correct the path\."):
        find_sources([str(tmp_path / "gone")])
