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
