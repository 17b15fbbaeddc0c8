import numpy as np
import pandas as pd
import pytest

from llava_dvc.errors import UserError
from llava_dvc.evaluation.improvement import RIVALS, read_improvements


@pytest.fixture
def files(tmp_path):
    """Answers on 60 frames: zero_shot errs by 2 people more than the adapter on every frame."""
    rng = np.random.default_rng(0)
    count, error = np.full(60, 20), rng.integers(1, 4, 60)
    frames = {"frame": [f"seq_{i:06d}.jpg" for i in range(60)], "count": count}
    rivals = {"train_mean": 30.0, "zero_shot": count - error - 2, "ridge_features": count + error}
    ours, theirs = tmp_path / "eval.csv", tmp_path / "baseline.csv"
    pd.DataFrame({**frames, "predicted": count + error}).to_csv(ours, index=False)
    pd.DataFrame({**frames, **rivals}).to_csv(theirs, index=False)
    return ours, theirs


def test_the_difference_is_paired_frame_by_frame(files):
    found = read_improvements(*files)
    assert tuple(found) == RIVALS
    assert found["zero_shot"] == (2.0, 2.0, 2.0, 60)
    assert found["zero_shot"].is_clear


def test_an_interval_with_zero_is_not_clear(tmp_path, files):
    ours, theirs = files
    answers = pd.read_csv(theirs)
    swing = 2 * np.sin(np.arange(60) / 9)
    answers["ridge_features"] = pd.read_csv(ours)["predicted"] + swing.clip(-1) + 0.05
    answers.to_csv(theirs, index=False)
    found = read_improvements(ours, theirs)["ridge_features"]
    assert found.low < 0 < found.mean < found.high
    assert str(found).endswith("95 %): not clear on 60 frames")


def test_other_frames_are_a_user_error(files):
    ours, theirs = files
    pd.read_csv(theirs).iloc[1:].to_csv(theirs, index=False)
    with pytest.raises(
        UserError, match=r"baseline\.csv: has other frames than .*; run `dvc repro`"
    ):
        read_improvements(ours, theirs)
