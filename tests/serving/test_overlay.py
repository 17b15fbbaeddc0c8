"""Pictures of counts."""

import numpy as np
from PIL import Image

from llava_dvc.serving.overlay import TimelinePoint, save_timeline


def test_the_timeline_shows_the_interval(tmp_path):
    narrow, wide = tmp_path / "narrow.png", tmp_path / "wide.png"
    save_timeline([TimelinePoint(float(second), 19, 20, 21) for second in range(9)], narrow)
    save_timeline([TimelinePoint(float(second), 2, 20, 21) for second in range(9)], wide)
    coloured = [(np.asarray(Image.open(path).convert("HSV"))[..., 1] > 20).sum()
                for path in (narrow, wide)]  # fmt: skip
    assert coloured[1] > 3 * coloured[0]
