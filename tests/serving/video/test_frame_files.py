from itertools import chain

import pytest
from PIL import Image, ImageDraw

from llava_dvc.errors import UserError
from llava_dvc.serving.video.frame_files import write_frame_files
from tests.serving.video.clips import RATE, SIZE, write_clip


def scene(head=None):
    """An empty place, or one with a head of 6x6 pixels in it."""
    image = Image.new("RGB", SIZE, (90, 100, 110))
    if head:
        x, y = head
        ImageDraw.Draw(image).rectangle((x, y, x + 5, y + 5), fill=(220, 180, 160))
    return image


def seconds_of(*images):
    """Each picture for one second."""
    return chain.from_iterable([image] * int(RATE) for image in images)


@pytest.fixture
def write(tmp_path):
    lines = []

    def call(*videos, every=1.0):
        lines.clear()
        return write_frame_files(videos, tmp_path / "data", every, lines.append), lines

    return call


def names(tmp_path):
    folder = tmp_path / "data" / "frames"
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_frames_are_named_by_video_and_second_and_equal_ones_left_out(write, tmp_path):
    images = seconds_of(scene(), scene(), scene((20, 30)), scene((20, 30)), scene())
    video = write_clip(tmp_path / "door.mp4", images)
    assert write(video) == (3, [f"{video}: 3 frames. Near-equal ones left out: 2.\n"])
    assert names(tmp_path) == ["door/000000.jpg", "door/000002.jpg", "door/000004.jpg"]
    with Image.open(tmp_path / "data/frames/door/000002.jpg") as image:
        assert image.size == SIZE
        assert abs(image.convert("L").getpixel((22, 32)) - 190) < 25
    assert not list(tmp_path.glob(".import*"))


def test_fractions_of_a_second_are_named_by_milliseconds(write, tmp_path):
    video = write_clip(tmp_path / "a.mp4", seconds_of(scene(), scene((9, 9))))
    assert write(video, every=0.5)[0] == 2
    assert names(tmp_path) == ["a/000000000.jpg", "a/000001000.jpg"]


def test_videos_of_one_name_keep_their_folders(write, tmp_path):
    videos = []
    for camera in ("door", "hall"):
        (tmp_path / camera).mkdir()
        videos.append(write_clip(tmp_path / camera / "1.mp4", seconds_of(scene())))
    assert write(*videos)[0] == 2
    assert names(tmp_path) == ["door/1/000000.jpg", "hall/1/000000.jpg"]


def test_damage_is_said_and_the_other_frames_are_kept(write, tmp_path):
    images = [scene((3 * second, 30)) for second in range(8)]
    video = write_clip(tmp_path / "a.ts", seconds_of(*images), gop=int(RATE))
    content = bytearray(video.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 800] = bytes(800)
    video.write_bytes(content)
    frames, lines = write(video)
    assert 0 < frames < 8
    assert "decoding error" in lines[0]


def bad_video(tmp_path):
    path = tmp_path / "b.mp4"
    path.write_bytes(b"no video")
    return path


@pytest.mark.parametrize("every", [0, -1, float("nan"), float("inf"), 0.0001])
def test_a_time_that_is_none_is_refused(write, tmp_path, every):
    with pytest.raises(UserError, match=r"^--every: is .*, expected seconds, at least 0.001"):
        write(bad_video(tmp_path), every=every)


def test_one_bad_video_leaves_nothing(write, tmp_path):
    good = write_clip(tmp_path / "a.mp4", seconds_of(scene()))
    with pytest.raises(UserError, match=r"b\.mp4: cannot be read as a video"):
        write(good, bad_video(tmp_path))
    assert not (tmp_path / "data").exists()


def test_a_missing_video_is_named(write, tmp_path):
    with pytest.raises(UserError, match=r"gone\.mp4: no such file"):
        write(tmp_path / "gone.mp4")


@pytest.mark.parametrize("form", ["again", "one name"])
def test_frames_are_never_overwritten(write, tmp_path, form):
    first = write_clip(tmp_path / "a.mp4", seconds_of(scene()))
    videos = [first]
    if form == "again":
        write(first)
    else:
        videos.append(write_clip(tmp_path / "a.mkv", seconds_of(scene((9, 9)))))
    before = names(tmp_path)
    with pytest.raises(UserError, match=r"frames/a: frames of .* would go there, but it is taken"):
        write(*videos)
    assert names(tmp_path) == before
