"""Pictures of counts."""

from datetime import datetime, timedelta, timezone
from pathlib import Path

import av
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
    with AnnotatedFolder(tmp_path) as folder:
        written = [folder.save(frame, count).name for frame in frames]
    assert written == [
        "cam1_a.jpg", "cam1_a_2.jpg", "CAM1_A_3.JPG", "x.png.jpg", "x.png_2.jpg", "x.png_3.jpg",
        "cam1_v.mp4_00001.00s.jpg", "cam1_v.mp4_2_00001.00s.jpg",
    ]  # fmt: skip
    assert len(list(tmp_path.glob("*.[jJ]*"))) == len(frames)
    clips = ["cam1_v.mp4_2_counted.mp4", "cam1_v.mp4_counted.mp4"]
    assert sorted(path.name for path in tmp_path.glob("*.mp4")) == clips
    assert len(list(tmp_path.iterdir())) == len(frames) + len(clips)  # nothing else is left


def filmed(colour, seconds, size=(65, 49)):
    image = Image.new("RGB", size, colour)
    return SourceFrame(Path("v.mp4"), f"v.mp4#t={seconds}", image, seconds, f"{seconds:08.2f}")


def test_the_clip_plays_as_fast_as_the_video(tmp_path):
    count = Count(1, 0, 2, 1.0, (0.0, 1.0), "1")
    with AnnotatedFolder(tmp_path) as folder:
        folder.save(filmed((250, 0, 0), 0.0), count)
        folder.save(filmed((0, 0, 250), 5.0, size=(128, 96)), count)
        assert not (tmp_path / "v.mp4_counted.mp4").exists()  # it is not whole
    with av.open(str(tmp_path / "v.mp4_counted.mp4")) as clip:
        assert clip.duration == 10 * av.time_base
        frames = list(clip.decode(video=0))
    assert [(frame.time, frame.width, frame.height) for frame in frames] == [
        (0.0, 64, 48), (5.0, 64, 48),
    ]  # fmt: skip
    corners = [frame.to_image().getpixel((60, 44)) for frame in frames]
    assert [place.index(max(place)) for place in corners] == [0, 2]  # red, blue


def save_and_stop(folder):
    with AnnotatedFolder(folder) as opened:
        for second in range(60):  # so many that some are in the file
            opened.save(filmed((250, 0, second), second), Count(1, 0, 2, 1.0, (0.0, 1.0), "1"))
        assert len(list(folder.glob(".*.partial"))) == 1
        raise KeyboardInterrupt


def save_all(folder):
    with AnnotatedFolder(folder) as opened:
        opened.save(filmed((250, 0, 0), 0.0), Count(1, 0, 2, 1.0, (0.0, 1.0), "1"))


def test_a_clip_on_a_full_disk_is_one_line(tmp_path):
    (tmp_path / ".v.mp4_counted.mp4.partial").symlink_to("/dev/full")
    with pytest.raises(UserError, match=r"counted\.mp4: cannot be written \(No space left"):
        save_all(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["v.mp4_00000.00s.jpg"]


def test_a_clip_that_is_not_whole_is_removed(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        save_and_stop(tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} == {".jpg"}


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    count = Count(1, 0, 2, 1.0, (0.0, 1.0), "1")
    with pytest.raises(UserError, match=r"a\.jpg: cannot be written \(No such file.*Choose anoth"):
        AnnotatedFolder(tmp_path / "gone").save(still("a.jpg", Image.new("RGB", (9, 9))), count)


START = datetime(2026, 11, 26, 8, 29, tzinfo=timezone(timedelta(hours=1)))


@pytest.mark.parametrize(
    ("seconds", "start", "title", "x", "ticks"),
    [
        ([0.0, 60.0, 120.0], None, "0:01:00", "time since the start", {"0:01:30", "0:02:00"}),
        ([None, None, None], START, "in frame 2", "frame", {"1", "2", "3"}),
        (
            [0.0, 60.0, 120.0], START, "at 08:30:00", "time, begins 2026-11-26, UTC+01:00",
            {"08:29:00", "08:30:00", "08:31:00"},
        ),
        (
            [0.0, 3600.0, 7200.0], datetime(2026, 1, 2, 8), "at 09:00:00",
            "time, begins 2026-01-02", {"08:30", "09:00", "09:30"},
        ),
    ],
)  # fmt: skip
def test_the_timeline_says_mean_peak_and_time(
    tmp_path, monkeypatch, seconds, start, title, x, ticks
):
    figures = []
    monkeypatch.setattr(plt, "close", figures.append)
    points = [TimelinePoint(s, 9, c, 31) for s, c in zip(seconds, (10, 30, 20), strict=True)]
    save_timeline(points, tmp_path / "a.png", "a$b$.mp4", start)
    (figure,) = figures
    shown = figure.axes[0].get_title()
    assert shown.startswith("a$b$.mp4: mean 20.0, peak 30 ")
    assert shown.endswith(title)
    assert figure.axes[0].get_xlabel() == x
    assert ticks <= {label.get_text() for label in figure.axes[0].get_xticklabels()}
    drawn = {line.get_label(): line.get_ydata() for line in figure.axes[0].lines}
    assert list(drawn["mean"]) == [20, 20]
    assert list(drawn["peak"]) == [30]
