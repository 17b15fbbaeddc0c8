"""The names of cameras, and what is never shown of an address."""

import pytest

from llava_dvc.errors import UserError
from llava_dvc.serving.watch.camera.address import parse_cameras

PASSWORD = "geheim"


def names(*sources):
    return [camera.name for camera in parse_cameras(sources, realtime=True)]


def test_a_camera_has_the_given_name_or_that_of_its_host():
    found = names(
        "hall=rtsp://u:geheim@10.0.0.5/1", "rtsp://u:geheim@10.0.0.5:554/user=a&password=geheim",
        "http://10.0.0.5/2", "https://[fd00::1]/x.m3u8", "10.0.0.5_3=http://a/b",
        "http://10.0.0.5/4",
    )  # fmt: skip
    assert found == ["hall", "10.0.0.5", "10.0.0.5_2", "fd00_1", "10.0.0.5_3", "10.0.0.5_4"]


def test_a_file_and_a_device_have_their_own_names(tmp_path):
    (tmp_path / "my clip.mp4").touch()
    assert names(str(tmp_path / "my clip.mp4"), "/dev/null") == ["my_clip", "null"]
    cameras = parse_cameras([str(tmp_path / "my clip.mp4"), "/dev/null", "http://a"], True)
    assert [camera.kind for camera in cameras] == ["file", "device", "http"]


def test_no_text_of_a_camera_holds_its_password():
    (camera,) = parse_cameras([f"rtsp://admin:{PASSWORD}@10.0.0.5/live"], False)
    assert PASSWORD in camera.url
    assert PASSWORD not in f"{camera} {camera!r}"


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("rtsp://admin:ge/heim@10.0.0.5/live", "its address cannot be read"),
        ("rtsp://admin:12#geheim@10.0.0.5/live", "its address cannot be read"),
        ("rtsp://admin:12?geheim@10.0.0.5/live", "its address cannot be read"),
        ("rtsp://admin:geheim@10.0.0.5:x/live", "its address cannot be read"),
        ("rtsp://admin:geheim@/live", "its address cannot be read"),
        ("rtsp://admin:[geheim@10.0.0.5/live", "its address cannot be read"),
        ("http://10.0.0.5/a?user=x@geheim", "its address cannot be read"),
        ("ftp://admin:geheim@10.0.0.5/live", "its scheme is ftp"),
        ("hall=concat://geheim", "its scheme is concat"),
    ],
)
def test_an_unclear_address_is_refused_and_not_shown(source, reason):
    with pytest.raises(UserError, match=rf"^source 2: {reason}") as refused:
        parse_cameras(["http://a", source], True)
    assert PASSWORD not in str(refused.value)
    assert "heim" not in str(refused.value)


def test_what_cannot_be_watched_is_one_line(tmp_path):
    clip = tmp_path / "clip.mp4"
    with pytest.raises(UserError, match=r"^source 1: .*clip\.mp4: not found\. Correct the path\."):
        parse_cameras([str(clip)], True)
    clip.touch()
    with pytest.raises(UserError, match=r"clip\.mp4: is a file\. Add --realtime"):
        parse_cameras([str(clip)], False)
    with pytest.raises(UserError, match=r"^source 2: the name a is taken"):
        parse_cameras(["a=http://b", "a=http://c"], False)
