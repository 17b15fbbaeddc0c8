"""Pictures of counts."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from llava_dvc.errors import UserError
from llava_dvc.serving.counter import Count
from llava_dvc.serving.overlay import AnnotatedFolder, TimelinePoint, plt, save_timeline
from llava_dvc.serving.sources import SourceFrame


def test_the_timeline_shows_the_interval(tmp_path):
    narrow, wide = tmp_path / "narrow.png", tmp_path / "wide.png"
    save_timeline([TimelinePoint(float(second), 19, 20, 21) for second in range(9)], narrow)
    save_timeline([TimelinePoint(float(second), 2, 20, 21) for second in range(9)], wide)
    coloured = [(np.asarray(Image.open(path).convert("HSV"))[..., 1] > 20).sum()
                for path in (narrow, wide)]  # fmt: skip
    assert coloured[1] > 3 * coloured[0]


def still(path, image):
    return SourceFrame(Path(path), path, image)


def test_no_two_frames_become_one_file(tmp_path):
    image, count = Image.new("RGB", (64, 48)), Count(1, 0, 2, 1.0, (0.0, 1.0), "1")
    frames = [
        still(path, image)
        for path in ("cam1/a.jpg", "cam1_a.jpg", "CAM1/A.JPG", "x.png", "x.png.jpg", "../x.png")
    ] + [
        SourceFrame(Path(path), f"{path}#t=1", image, 1.0, "00001.00")
        for path in ("cam1/v.mp4", "cam1_v.mp4")
    ]
    folder = AnnotatedFolder(tmp_path)
    written = [folder.save(frame, count).name for frame in frames]
    assert written == [
        "cam1_a.jpg", "cam1_a_2.jpg", "CAM1_A_3.JPG", "x.png.jpg", "x.png_2.jpg", "x.png_3.jpg",
        "cam1_v.mp4_00001.00s.jpg", "cam1_v.mp4_2_00001.00s.jpg",
    ]  # fmt: skip
    assert len(list(tmp_path.iterdir())) == len(frames)


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    count = Count(1, 0, 2, 1.0, (0.0, 1.0), "1")
    with pytest.raises(UserError, match=r"a\.jpg: cannot be written \(No such file.*Choose anoth"):
        AnnotatedFolder(tmp_path / "gone").save(still("a.jpg", Image.new("RGB", (9, 9))), count)


@pytest.mark.parametrize(
    ("seconds", "title"),
    [
        ([0.0, 60.0, 120.0], "a$b$.mp4: mean 20.0, peak 30 at 0:01:00"),
        ([None, None, None], "a$b$.mp4: mean 20.0, peak 30 in frame 2"),
    ],
)
def test_the_timeline_says_mean_and_peak(tmp_path, monkeypatch, seconds, title):
    figures = []
    monkeypatch.setattr(plt, "close", figures.append)
    points = [TimelinePoint(s, 9, c, 31) for s, c in zip(seconds, (10, 30, 20), strict=True)]
    save_timeline(points, tmp_path / "a.png", "a$b$.mp4")
    (figure,) = figures
    assert figure.axes[0].get_title() == title
    drawn = {line.get_label(): line.get_ydata() for line in figure.axes[0].lines}
    assert list(drawn["mean"]) == [20, 20]
    assert list(drawn["peak"]) == [30]
