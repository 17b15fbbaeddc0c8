"""Times and names of frames, whatever the camera's clock does."""

import av
import pytest

from llava_dvc.data.labels import natural_key
from llava_dvc.serving.overlay import AnnotatedFolder
from llava_dvc.serving.sources import Source, read_sources
from llava_dvc.serving.video.clock import MAX_STRAYS, Clock
from llava_dvc.serving.video.sampling import sample_video
from tests.serving.video.clips import RATE, copy_packets, moving, write_clip


def sampled_seconds(path, every=1.0):
    notes = []
    return [seconds for seconds, _ in sample_video(path, every, notes)], notes


def test_a_clock_that_starts_again_loses_no_frame(tmp_path):
    for part in ("a.ts", "b.ts"):
        write_clip(tmp_path / part, moving(100), kind="mpegts")
    path = tmp_path / "both.ts"
    path.write_bytes((tmp_path / "a.ts").read_bytes() + (tmp_path / "b.ts").read_bytes())
    seconds, notes = sampled_seconds(path)
    assert seconds == list(range(8))
    assert notes == [
        f"{path}: its clock jumps or stops at 4 s. The times continue from the frame before."
    ]


@pytest.mark.parametrize("jump", [40 * 365 * 86400.0, 27 * 3600.0, 95443.7, 3600.0, 20.0])
@pytest.mark.parametrize("kind", ["matroska", "mpegts", "mp4"])
def test_a_clock_that_jumps_forward_loses_no_frame(tmp_path, jump, kind):
    if kind == "mpegts":
        jump = min(jump, 90_000.0)  # its stamps have 33 bits
    path = write_clip(
        tmp_path / "clip", moving(100), kind=kind,
        stamp=lambda index: index / RATE + (jump if index >= 50 else 0),
    )  # fmt: skip
    seconds, _ = sampled_seconds(path)
    assert len(seconds) in (4, 5)
    assert seconds[:3] in ([0, 1, 2], [0, 1, 2 + jump])


@pytest.mark.parametrize("stray", [1, 3])
@pytest.mark.parametrize("kind", ["matroska", "mp4"])
def test_frames_that_are_stamped_hours_off_change_no_other_time(tmp_path, kind, stray):
    """As some video recorders do every few seconds."""

    def shift(number, packet):
        if 40 <= number < 40 + stray:
            packet.pts += round(37_600 / packet.time_base)

    clip = write_clip(tmp_path / "plain", moving(100), kind=kind)
    path = copy_packets(clip, tmp_path / "clip", shift, kind)
    seconds, notes = sampled_seconds(path)
    assert seconds == [0, 1, 2, 3]
    more = {1: "", 3: " and 2 more times"}[stray]
    assert notes == [
        f"{path}: its clock jumps or stops at 1.6 s{more}. The times continue from the frame "
        "before."
    ]


@pytest.mark.parametrize("start", [0.0, 1e5, 1.7e9])
def test_the_start_of_the_clock_does_not_matter(tmp_path, start):
    path = write_clip(tmp_path / "clip.mkv", moving(75), stamp=lambda index: index / RATE + start)
    assert sampled_seconds(path) == ([0, 1, 2], [])


def test_a_stream_without_a_clock_counts_its_frames(tmp_path):
    path = write_clip(tmp_path / "clip", moving(75), kind="h264")
    assert sampled_seconds(path) == ([0, 1, 2], [])


def clock_seconds(stamps, discontinuous=False):
    clock = Clock(25.0, discontinuous)
    seconds = [
        round(clock.seconds(stamp, stamps[number : number + MAX_STRAYS]), 3)
        for number, stamp in enumerate(stamps, 1)
    ]
    return seconds, len(clock.jumps)


@pytest.mark.parametrize(
    ("stamps", "seconds", "jumps"),
    [
        ([5.0, 5.04, 5.08], [0, 0.04, 0.08], 0),
        ([5.0, 5.04, 0.0, 0.04], [0, 0.04, 0.08, 0.12], 1),
        ([5.0, 5.04, 2e9, 2e9 + 1], [0, 0.04, 0.08, 1.08], 1),
        ([-3e9, 5.0, 5.04], [0, 0.04, 0.08], 1),
        ([None, None, 7.0, None, 7.08], [0, 0.04, 0.08, 0.12, 0.16], 0),
        ([0.0, 0.04, 0.12, 0.08, 0.16], [0, 0.04, 0.12, 0.12, 0.16], 0),  # not in order
        ([0.0, 0.0, 0.0, 1.0], [0, 0, 0, 1], 0),
        ([0.0, 0.04] + [0.04] * 7 + [0.08], [0] + [0.04] * 6 + [0.08, 0.12, 0.16], 1),  # stopped
        ([0.0, 3600.0], [0, 3600], 0),  # a camera that records on motion
        ([0.0, 3600.0, 3600.04], [0, 3600, 3600.04], 0),
        ([0.0, 3600.0, 0.08, 0.12], [0, 0.04, 0.08, 0.12], 1),  # hours ahead, and back
        ([9800.0, 0.0, 9800.08, 9800.12], [0, 0.04, 0.08, 0.12], 1),  # hours behind
    ],
)
def test_seconds_never_go_back(stamps, seconds, jumps):
    assert clock_seconds(stamps) == (seconds, jumps)


def test_a_format_that_starts_again_has_a_lower_limit():
    assert clock_seconds([0.0, 3600.0], discontinuous=True) == ([0, 0.04], 1)


@pytest.mark.parametrize(
    ("every", "stamp"),
    [
        (1.0, lambda index: index * 5_000.0),  # over 10,000 s
        (1.0, lambda index: index * 50_000.0),  # over a day
        (0.001, lambda index: index / 1_000),
        (0.0001, lambda index: index / 5_000),
        (0.04, lambda index: 99_990 * (index > 2) + index / RATE),
    ],
)
def test_names_are_unique_and_sort(tmp_path, every, stamp):
    path = write_clip(tmp_path / "clip.nut", moving(20), kind="nut", stamp=stamp)
    errors = []
    frames = list(read_sources([Source(path, is_video=True)], every, 4, errors))
    assert not errors
    assert len(frames) == 20
    names = [frame.name for frame in frames]
    assert len(set(names)) == 20
    assert sorted(names, key=natural_key) == names
    assert not any("e" in name.partition("#t=")[2] for name in names)
    folder = AnnotatedFolder(tmp_path)
    files = [folder._file_name(frame) for frame in frames]
    assert len(set(files)) == 20
    assert sorted(files) == files


def test_a_jump_within_a_reordered_stream_is_one_jump(tmp_path):
    """With B-frames the packets are not in the order of their times."""
    clip = write_clip(
        tmp_path / "a.mp4", moving(100),
        set_up=lambda stream: setattr(stream.codec_context, "max_b_frames", 2),
    )  # fmt: skip
    for part in ("a.ts", "b.ts"):
        copy_packets(clip, tmp_path / part, lambda *_: True, "mpegts")
    path = tmp_path / "both.ts"
    path.write_bytes((tmp_path / "a.ts").read_bytes() + (tmp_path / "b.ts").read_bytes())
    with av.open(str(path)) as both:
        assert both.streams.video
    seconds, notes = sampled_seconds(path)
    assert seconds == list(range(8))
    assert len(notes) == 1
