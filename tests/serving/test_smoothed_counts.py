"""`llava-dvc predict --smooth`: which frames share a sequence, and what their rows say."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from llava_dvc.model.calibration import tempered
from llava_dvc.model.counting import quantile
from llava_dvc.model.smoothing import smooth
from llava_dvc.recipe import Recipe, Smoothing
from llava_dvc.serving import smoothed_counts
from llava_dvc.serving.counter import Count, Counter
from llava_dvc.serving.smoothed_counts import SequenceEnds, smooth_counts
from llava_dvc.serving.sources import Source, SourceFrame
from tests.conftest import frame
from tests.recipes import recipe

SMOOTHING = Smoothing(spread=2.0, temperature=3.0)
GREY = Image.new("RGB", (8, 6))


def image(name: str) -> SourceFrame:
    return SourceFrame(Path(name), name, GREY)


def moment(name: str, seconds: float) -> SourceFrame:
    return SourceFrame(Path(name), f"{name}#t={seconds}", GREY, seconds)


def starts(frames: list[SourceFrame], every: float = 1.0) -> list[bool]:
    ends = SequenceEnds([Source(f.path, f.seconds is not None) for f in frames], every)
    return [ends.begins_with(frame) for frame in frames]


def test_images_of_one_folder_are_a_sequence_until_a_number_is_missing():
    frames = [image(f"cam/seq_{number:03d}.jpg") for number in (8, 9, 10, 12, 13)]
    assert starts(frames) == [True, False, False, True, False]


def test_an_unreadable_image_leaves_a_gap():
    sources = [Source(Path(f"cam/{number}.jpg"), is_video=False) for number in range(1, 6)]
    ends = SequenceEnds(sources, 1.0)
    read = [image(f"cam/{number}.jpg") for number in (1, 2, 4, 5)]
    assert [ends.begins_with(frame) for frame in read] == [True, False, True, False]


def test_unrelated_pictures_stay_alone():
    assert starts([image(name) for name in ("hall.jpg", "stairs.jpg", "IMG_9.jpg", "b/1.jpg")]) == (
        [True] * 4
    )


@pytest.mark.parametrize(
    ("times", "every", "expected"),
    [
        ([0, 1, 2.04, 3], 1.0, [True, False, False, False]),
        ([0, 1, 3, 4], 1.0, [True, False, True, False]),  # the frame at 2 s is damaged
        ([0, 0.04, 0.08, 0.2], 0.04, [True, False, False, True]),
        ([0, 0.8, 1.2], 0.5, [True, False, False]),  # 2.5 frames a second
    ],
)
def test_a_video_is_a_sequence_until_a_part_is_skipped(times, every, expected):
    assert starts([moment("a.mp4", seconds) for seconds in times], every) == expected


def test_videos_and_images_are_not_neighbours():
    frames = [moment("a.mp4", 0), moment("b.mp4", 1), image("c_1.jpg"), image("c_2.jpg")]
    assert starts([*frames, moment("b.mp4", 1)]) == [True, True, True, False, True]


# --- the counts ---------------------------------------------------------------------------------


def guesses(frames: int, size: tuple[int, int] = (8, 6)) -> list[tuple[SourceFrame, Count]]:
    mass = np.random.default_rng(0).dirichlet(np.full(61, 0.2), frames)
    return [
        (SourceFrame(Path("a.mp4"), str(place), Image.new("RGB", size), float(place)),
         Count(0, 0, 0, 0.0, tuple(row), "60"))
        for place, row in enumerate(mass.tolist())
    ]  # fmt: skip


def test_a_count_takes_sixteen_later_frames_into_account(cfg):
    made = recipe(cfg, temperature=1.5, smoothing=SMOOTHING, decode="median")
    counted = guesses(40)
    raw = np.array([count.probabilities for _, count in counted])
    calibrated = [
        (frame, Count(0, 0, 0, 0.0, tuple(row), "60"))
        for (frame, _), row in zip(counted, tempered(raw, 1.5), strict=True)
    ]
    read = []

    def feed():
        for place, pair in enumerate(calibrated):
            read.append(place)
            yield pair

    found, waits = [], []
    for _, count in smooth_counts(feed(), made, [Source(Path("a.mp4"), True)], 1.0):
        waits.append(read[-1] - len(found))
        found.append(count)
    wanted = smooth(raw, SMOOTHING, 16)
    np.testing.assert_allclose([one.probabilities for one in found], wanted, atol=1e-9)
    assert [one.count for one in found] == quantile(wanted, 0.5).tolist()
    assert [one.low for one in found] == quantile(wanted, 0.1).tolist()
    assert [one.high for one in found] == quantile(wanted, 0.9).tolist()
    np.testing.assert_allclose([one.expected for one in found], wanted @ np.arange(61))
    assert max(waits) == 16
    assert waits[:24] == [16] * 24


def test_greedy_takes_the_most_likely_count(cfg):
    made = recipe(cfg, smoothing=SMOOTHING, decode="greedy")
    found = [one for _, one in smooth_counts(guesses(5), made, [], 1.0)]
    assert [one.count for one in found] == [np.argmax(one.probabilities) for one in found]


def test_of_large_frames_fewer_wait(cfg, monkeypatch):
    monkeypatch.setattr(smoothed_counts, "MAX_WAITING_PIXELS", 1000)
    made = recipe(cfg, smoothing=SMOOTHING)
    taken = []
    rows = smooth_counts(
        (taken.append(place) or pair for place, pair in enumerate(guesses(9, (20, 20)))),
        made, [], 1.0,
    )  # fmt: skip
    next(rows)
    assert taken == [0, 1, 2]
    assert len(list(rows)) == 8


# --- the command --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def smoothing_adapter(tmp_path_factory, adapter_folder) -> Path:
    """The adapter of the other tests, with a smoothing in its recipe."""
    folder = tmp_path_factory.mktemp("smoothing") / "adapter"
    shutil.copytree(adapter_folder, folder)
    Recipe.read(folder).model_copy(update={"smoothing": SMOOTHING}).write(folder)
    return folder


def test_rows_of_a_folder_are_smoothed(run_predict, tmp_path, smoothing_adapter):
    (tmp_path / "cam").mkdir()
    names = [f"cam/seq_{number:06d}.png" for number in (7, 8, 9, 20)]
    for seed, name in enumerate(names):
        frame(seed).save(name)
    output, error = run_predict(
        smoothing_adapter, "cam", "--smooth", "--format", "jsonl", "--annotate", "seen"
    )
    assert error is None
    rows = [json.loads(line) for line in output.splitlines()]
    assert [row["frame"] for row in rows] == names
    alone = [one.probabilities for one in Counter.from_pretrained(smoothing_adapter).count(names)]
    raw = np.array(alone) ** 1.5  # the adapter's temperature
    wanted = np.concatenate([smooth(raw[:3], SMOOTHING), tempered(raw[3:], 3.0)])
    assert [row["count"] for row in rows] == quantile(wanted, 0.5).tolist()
    assert [row["low"] for row in rows] == quantile(wanted, 0.1).tolist()
    assert [row["high"] for row in rows] == quantile(wanted, 0.9).tolist()
    assert [row["expected"] for row in rows] == pytest.approx(wanted @ np.arange(61), abs=0.006)
    assert len(list((tmp_path / "seen").iterdir())) == 4


def test_a_video_is_smoothed_into_csv_and_timeline(run_predict, clip, smoothing_adapter):
    plain, _ = run_predict(smoothing_adapter, "clip.mp4", "--every", "0.2")
    output, error = run_predict(
        smoothing_adapter, "clip.mp4", "--every", "0.2", "--smooth", "--timeline", "t.png"
    )
    assert error is None
    both = [list(csv.DictReader(text.splitlines())) for text in (plain, output)]
    assert [row["frame"] for row in both[0]] == [row["frame"] for row in both[1]]
    assert both[0] != both[1]
    assert clip.with_name("t.png").exists()


def test_an_adapter_without_a_smoothing_is_refused_in_one_line(run_predict, images, adapter_folder):
    output, error = run_predict(adapter_folder, "cam", "--smooth")
    assert output == ""
    assert error == (
        f"error: --smooth: {adapter_folder}: its recipe.json has no fitted smoothing. Train it "
        "again, on frames whose names number them in order of time, or leave out --smooth."
    )
