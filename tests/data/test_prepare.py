"""What prepared/ holds of a frame, and when a split is called leaking."""

from dataclasses import replace

import numpy as np
import pytest

from llava_dvc.conversation import PLACEHOLDER, Conversation
from llava_dvc.data.frames import Frame
from llava_dvc.data.prepare import build, leak, report
from llava_dvc.data.split import split_frames
from tests.conftest import frame


@pytest.fixture
def frames(tmp_path):
    """A count that wanders, as that of a camera does; frames of two cameras in turn."""
    (tmp_path / "frames").mkdir()
    path = tmp_path / "frames" / "one.jpg"
    frame(0).save(path)
    walk = 20 + np.random.default_rng(0).normal(0, 0.7, 400).cumsum().round().astype(int)
    return [
        Frame(f"seq_{n:06d}.jpg", int(count), path, "ab"[n % 2]) for n, count in enumerate(walk)
    ]


def split(strategy, frames, gap):
    cameras = [row.camera for row in frames]
    return split_frames(range(len(frames)), cameras, strategy, 0.2, 0.1, gap, None, 0)


def test_a_row_has_its_frame_and_camera(frames):
    asked = [Conversation("How many?", PLACEHOLDER)]
    rows = build(frames, asked, split("temporal", frames, 2), 0)["eval"]
    assert rows["camera"][:2] == ["a", "b"]
    assert rows[0]["count"] == frames[320].count
    assert rows[0]["image"].size == (64, 48)


def test_a_split_that_leaks_is_called_so(frames, tmp_path):
    def warning(strategy, rows):
        return leak(report(rows, split(strategy, rows, 0), tmp_path), strategy)

    assert "split.strategy: is random, and guessing" in warning("random", frames)
    assert warning("temporal", frames) is None
    assert warning("random", [replace(row, count=4) for row in frames]) is None
