"""The rows of prepared/, and the warning of a split that leaks."""

from dataclasses import replace

import numpy as np
import pytest

from llava_dvc import config
from llava_dvc.conversation import PLACEHOLDER, Conversation
from llava_dvc.data.frames import Frame
from llava_dvc.data.prepare import (
    build_dataset,
    build_report,
    camera_warning,
    frame_numbers,
    leak_warning,
    split_summary,
)
from llava_dvc.data.split import split_frames
from tests.conftest import frame


@pytest.fixture
def frames(tmp_path):
    """400 frames of two cameras in turn, whose counts are a random walk."""
    (tmp_path / "frames").mkdir()
    path = tmp_path / "frames" / "one.jpg"
    frame(0).save(path)
    walk = 20 + np.random.default_rng(0).normal(0, 0.7, 400).cumsum().round().astype(int)
    return [
        Frame(f"seq_{n:06d}.jpg", int(count), path, "ab"[n % 2]) for n, count in enumerate(walk)
    ]


def split(strategy, frames, gap):
    cameras = [row.camera for row in frames]
    settings = config.Split(strategy=strategy, eval=0.2, val=0.1, gap=gap, train_until=None)
    return split_frames(range(len(frames)), cameras, settings, seed=0)


def test_a_row_has_its_frame_and_camera(frames):
    asked = [Conversation("How many?", PLACEHOLDER)]
    rows = build_dataset(frames, asked, split("temporal", frames, 2), 0)["eval"]
    assert rows["camera"][:2] == ["a", "b"]
    assert rows[0]["count"] == frames[320].count
    assert rows[0]["image"].size == (64, 48)


def test_a_split_that_leaks_is_warned_of(frames, tmp_path):
    def warning(strategy, rows):
        report = build_report(rows, split(strategy, rows, 0), tmp_path)
        return leak_warning(report, strategy)

    assert "split.strategy: is random, and the labels of eval can be guessed" in warning(
        "random", frames
    )
    assert warning("temporal", frames) is None
    assert warning("random", [replace(row, count=4) for row in frames]) is None


def test_the_report_counts_frames_without_a_label(frames, tmp_path):
    """Only where they are allowed: else the report stays as it was."""
    parts = split("temporal", frames, 0)
    refused = build_report(frames, parts, tmp_path)
    assert "unlabelled" not in refused
    allowed = build_report(frames, parts, tmp_path, unlabelled=["a.jpg", "b.jpg"])
    assert allowed == {**refused, "unlabelled": 2}
    assert split_summary(allowed) == f"{split_summary(refused)}; 2 without a label"


def test_the_report_has_the_frames_of_each_camera(frames, tmp_path):
    report = build_report(frames, split("temporal", frames, 2), tmp_path)
    each = {"train": 136, "val": 20, "eval": 40, "left_out": 4}
    assert report["cameras"] == {"a": each, "b": each}
    for camera in ("hall", None):
        alone = [replace(row, camera=camera) for row in frames]
        assert "cameras" not in build_report(alone, split("temporal", alone, 2), tmp_path)


def test_a_camera_without_a_part_is_warned_of(frames, tmp_path):
    few = [*frames, replace(frames[0], name="seq_000999.jpg", camera="door")]
    report = build_report(few, split("temporal", few, 2), tmp_path)
    assert camera_warning(report, "temporal") == (
        "warning: split.strategy: is temporal, which splits the frames of each camera in time, but "
        "door has none in train and val and eval. Add frames, lower split.gap, or set "
        "split.strategy to camera."
    )
    assert camera_warning(report, "camera") is None
    whole = build_report(frames, split("temporal", frames, 2), tmp_path)
    assert camera_warning(whole, "temporal") is None


def test_frames_with_names_of_their_own_are_numbered_within_their_camera(frames):
    cameras = ["a", "b", "a", "a", "b"]
    rows = [
        replace(row, name=f"{camera}/{n}.jpg", camera=camera)
        for n, (row, camera) in enumerate(zip(frames, cameras, strict=False))
    ]
    assert frame_numbers(rows) == [1, 1, 2, 3, 2]
    assert frame_numbers(frames[:3]) == [0, 1, 2]
