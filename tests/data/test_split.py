import numpy as np
import pytest

from llava_dvc import config
from llava_dvc.data.split import FrameSplit, interpolate_labels, split_frames
from llava_dvc.errors import UserError


def split(
    n=100, strategy="temporal", eval=0.2, val=0.1, gap=0, train_until=None, seed=0, cameras=None
):
    settings = config.Split(strategy=strategy, eval=eval, val=val, gap=gap, train_until=train_until)
    return split_frames(range(1, n + 1), cameras or [None] * n, settings, seed)


def five(numbers, train_until=None):
    """A temporal split of five frames with these numbers."""
    settings = config.Split(strategy="temporal", eval=0.2, val=0.2, gap=0, train_until=train_until)
    return split_frames(numbers, [None] * 5, settings, seed=0)


def blind_mae(times, counts, parts):
    """MAE on eval of the interpolated labels."""
    guess = interpolate_labels(times, [None] * len(times), counts, parts)
    return np.abs(guess - np.take(counts, parts.eval)).mean()


def all_positions(part: FrameSplit) -> list[int]:
    return sorted(part.train + part.val + part.eval + part.left_out)


def test_a_temporal_split_is_train_then_val_then_eval():
    parts = split()
    assert parts == FrameSplit(
        train=list(range(70)), val=list(range(70, 80)), eval=list(range(80, 100)), left_out=[]
    )


def test_gaps_are_taken_from_train():
    parts = split(gap=5)
    assert parts.train == list(range(60))
    assert parts.val == list(range(65, 75))
    assert parts.eval == list(range(80, 100))
    assert parts.left_out == [*range(60, 65), *range(75, 80)]


def test_train_until_sets_the_boundary():
    parts = split(n=800, val=0.1, gap=20, train_until=640)
    assert parts.eval == list(range(660, 800))  # numbers 661 to 800
    assert parts.val == list(range(560, 640))
    assert parts.train == list(range(540))


def test_train_until_is_a_number_not_a_position():
    parts = five([10, 20, 30, 40, 50], train_until=35)
    assert parts == FrameSplit(train=[0, 1], val=[2], eval=[3, 4], left_out=[])


def test_time_decides_not_the_order_given():
    parts = five([5, 4, 3, 2, 1])
    assert (parts.eval, parts.val, parts.train) == ([0], [1], [2, 3, 4])


@pytest.mark.parametrize("strategy", ["temporal", "blocked", "random"])
def test_every_frame_is_in_one_part(strategy):
    assert all_positions(split(n=333, strategy=strategy, gap=3)) == list(range(333))


def test_a_random_split_has_the_shares_and_no_order():
    parts = split(strategy="random", gap=5)
    assert [len(parts.train), len(parts.val), len(parts.eval)] == [70, 10, 20]
    assert parts.eval != list(range(80, 100))


def test_blocks_hold_fifty_neighbours():
    parts = split(n=1000, strategy="blocked")
    starts = np.flatnonzero(np.diff([-2, *parts.eval]) > 1)
    runs = np.diff([*starts, len(parts.eval)])
    assert len(parts.eval) == 200
    assert all(run % 50 == 0 for run in runs)
    assert len(parts.val) == 100


def test_small_data_has_smaller_blocks():
    parts = split(n=60, strategy="blocked")
    assert [len(parts.train), len(parts.val), len(parts.eval)] == [42, 6, 12]


@pytest.mark.parametrize("seed", range(5))
def test_blocks_keep_their_distance(seed):
    parts = split(n=1000, strategy="blocked", gap=10, seed=seed)
    for one, other in [
        (parts.train, parts.val),
        (parts.train, parts.eval),
        (parts.val, parts.eval),
    ]:
        assert np.abs(np.subtract.outer(one, other)).min() > 10
    assert len(parts.eval) == 200
    assert parts.left_out


@pytest.mark.parametrize("strategy", ["blocked", "random"])
def test_the_seed_decides(strategy):
    assert split(n=1000, strategy=strategy, seed=1) == split(n=1000, strategy=strategy, seed=1)
    assert split(n=1000, strategy=strategy, seed=1) != split(n=1000, strategy=strategy, seed=2)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"n": 4}, r"split.val 0.1, split.gap 0 leave val without a frame, of 4. Lower split.gap"),
        ({"val": 1e-9, "strategy": "blocked"}, r"split.val 1e-09, split.gap 0 leave val without"),
        ({"eval": 1e-9}, r"split.eval 1e-09, .* leave eval without a frame"),
        ({"gap": 40}, r"split.gap 40 leave train without a frame, of 100"),
        ({"gap": 80}, r"split.gap 80 leave train and val without a frame"),
        ({"train_until": 100}, r"split.train_until 100 leave eval without a frame"),
        ({"train_until": 0}, r"split.train_until 0 leave train and val without a frame"),
    ],
)
def test_a_split_without_frames_names_the_setting(settings, reason):
    with pytest.raises(UserError, match=f"params.yaml: .*{reason}") as caught:
        split(**settings)
    assert "\n" not in str(caught.value)


def test_train_until_replaces_the_eval_share():
    assert len(split(eval=0.85, train_until=50).eval) == 50


def test_interpolation_by_hand():
    parts = FrameSplit(train=[0, 4], val=[2], eval=[1, 3, 5], left_out=[])
    # guesses: 15 between 10 and 20, 15 between 20 and 10, then 10, the last known
    assert blind_mae(range(6), [10, 16, 20, 18, 10, 10], parts) == pytest.approx(4 / 3)


def test_interpolation_shows_a_leak():
    walk = np.cumsum(np.random.default_rng(0).choice([-1, 1], size=600))
    times = np.arange(600)
    leaking = blind_mae(times, walk, split(n=600, strategy="random"))
    assert leaking < 1 < blind_mae(times, walk, split(n=600))


def test_a_camera_is_on_one_side_only():
    cameras = [f"cam{i % 5}" for i in range(100)]
    parts = split(strategy="camera", cameras=cameras)
    seen = [{cameras[i] for i in part} for part in (parts.train, parts.val, parts.eval)]
    assert [len(names) for names in seen] == [3, 1, 1]
    assert len(set.union(*seen)) == 5
    assert all_positions(parts) == list(range(100))
    other = split(strategy="camera", cameras=cameras, seed=1)
    assert {cameras[i] for i in other.eval} != seen[2]


@pytest.mark.parametrize("cameras", [None, ["a", "b"] * 50, ["a", "b", "c", None] * 25])
def test_a_camera_split_needs_three_named_cameras(cameras):
    with pytest.raises(UserError, match=r"is camera, but data/labels\.csv names"):
        split(strategy="camera", cameras=cameras)


# --- several cameras --------------------------------------------------------------------------


def camera_parts(parts: FrameSplit, cameras: list[str], camera: str) -> list[list[int]]:
    """The positions in train, val and eval that belong to one camera."""
    return [
        [place for place in part if cameras[place] == camera]
        for part in (parts.train, parts.val, parts.eval)
    ]


LAYOUTS = {
    "one after the other": ["a"] * 50 + ["b"] * 100,
    "in turn": ["a", "b", "b"] * 50,
    "overlapping": ["a"] * 30 + ["b", "a"] * 20 + ["b"] * 80,
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_temporal_split_is_in_time_within_every_camera(layout):
    cameras = LAYOUTS[layout]
    parts = split(n=150, gap=3, cameras=cameras)
    for camera, n in (("a", 50), ("b", 100)):
        train, val, held_out = camera_parts(parts, cameras, camera)
        own = [place for place in range(150) if cameras[place] == camera]
        vals, evals = n // 10, n // 5
        assert held_out == own[n - evals :]
        assert val == own[n - evals - 3 - vals : n - evals - 3]
        assert train == own[: n - evals - vals - 6]
    assert all_positions(parts) == list(range(150))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_gap_between_blocks_counts_frames_of_one_camera(layout, seed):
    cameras = LAYOUTS[layout]
    parts = split(n=150, strategy="blocked", gap=3, cameras=cameras, seed=seed)
    for camera in "ab":
        own = [place for place in range(150) if cameras[place] == camera]
        places = [[own.index(i) for i in part] for part in camera_parts(parts, cameras, camera)]
        for one, other in ((0, 1), (0, 2), (1, 2)):
            distances = np.abs(np.subtract.outer(places[one], places[other]))
            assert not distances.size or distances.min() > 3
    assert all_positions(parts) == list(range(150))


@pytest.mark.parametrize("strategy", ["temporal", "blocked", "random"])
def test_one_camera_splits_as_none(strategy):
    plain = split(n=333, strategy=strategy, gap=3)
    assert split(n=333, strategy=strategy, gap=3, cameras=["hall"] * 333) == plain


def test_train_until_is_a_number_within_each_camera():
    settings = config.Split(strategy="temporal", eval=0.2, val=0.2, gap=0, train_until=3)
    parts = split_frames([1, 2, 3, 4, 5, 1, 2, 3, 4], ["a"] * 5 + ["b"] * 4, settings, seed=0)
    assert parts == FrameSplit(train=[0, 1, 5, 6], val=[2, 7], eval=[3, 4, 8], left_out=[])


def test_a_split_in_time_of_tiny_cameras_names_the_other_strategy():
    reason = (
        "leave train and val and eval without a frame, of 40 of 40 cameras, each split in time. "
        "Lower split.gap, change the shares, or add frames, or set split.strategy to camera."
    )
    with pytest.raises(UserError, match=reason):
        split(n=40, gap=2, cameras=[f"cam{i}" for i in range(40)])


def test_labels_are_interpolated_within_their_camera():
    parts = FrameSplit(train=[0, 1, 4, 5], val=[], eval=[2, 3, 6], left_out=[])
    cameras = ["a", "b", "a", "b", "a", "b", "c"]
    guess = interpolate_labels(range(7), cameras, [10, 80, 0, 0, 20, 90, 0], parts)
    assert guess.tolist() == [15, 85, 90]  # camera c has no label: the nearest of any camera


def test_a_leak_between_cameras_in_turn_is_seen():
    walks = np.cumsum(np.random.default_rng(0).choice([-1, 1], size=(2, 300)), axis=1)
    counts = np.add(walks, [[20], [200]]).T.ravel()
    cameras = ["a", "b"] * 300
    parts = split(n=600, strategy="random", cameras=cameras)
    guess = interpolate_labels(range(600), cameras, counts, parts)
    assert np.abs(guess - counts[parts.eval]).mean() < 1
