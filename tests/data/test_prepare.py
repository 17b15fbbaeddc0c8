"""The rows of prepared/, and the warning of a split that leaks."""

from dataclasses import replace

import numpy as np
import pytest

from llava_dvc import config
from llava_dvc.conversation import PLACEHOLDER, Conversation
from llava_dvc.data.frames import Frame
from llava_dvc.data.prepare import build_dataset, build_report, leak_warning
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
