import json

import numpy as np
import pytest

from llava_dvc import metrics
from llava_dvc.errors import UserError

# Four frames, errors +1, -2, 0 and +6.
ACTUAL = [4, 10, 12, 25]
PREDICTED = [5, 8, 12, 31]
CONTRACT = (
    "mae mae_ci_low mae_ci_high rmse bias coverage_80 width_80 within_1 within_2 within_3 within_5 "
    "accuracy precision_macro recall_macro f1_macro precision_weighted recall_weighted f1_weighted "
    "nll frames unparsed bins"
)


def evaluation(**changes):
    columns = {
        "actual": ACTUAL,
        "predicted": PREDICTED,
        "low": [4, 9, 10, 27],
        "high": [6, 10, 14, 35],
        "nll": [1.0, 2.0, 0.5, 4.5],
        "parsed": [True, False, True, True],
    }
    return metrics.evaluation_metrics(**(columns | changes))


def test_the_keys_are_the_contract():
    assert list(evaluation()) == CONTRACT.split()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("frames", 4),
        ("mae", 9 / 4),
        ("rmse", (41 / 4) ** 0.5),
        ("bias", 5 / 4),
        ("accuracy", 1 / 4),
        ("within_1", 2 / 4),
        ("within_2", 3 / 4),
        ("within_3", 3 / 4),
        ("within_5", 3 / 4),
        ("coverage_80", 3 / 4),  # both ends count; 25 lies below 27..35
        ("width_80", (2 + 1 + 4 + 8) / 4),
        ("nll", 2.0),
        ("unparsed", 1 / 4),
    ],
)
def test_each_figure_by_hand(name, value):
    assert evaluation()[name] == pytest.approx(value, abs=1e-6)


def test_bins_are_by_the_true_count():
    assert evaluation()["bins"] == {
        "0-9": {"frames": 1, "mae": 1.0, "bias": 1.0},
        "10-19": {"frames": 2, "mae": 1.0, "bias": -1.0},
        "20-29": {"frames": 1, "mae": 6.0, "bias": 6.0},
    }


def test_class_metrics_by_hand():
    # class 1: 2 frames, 1 found, 1 predicted -> precision 1, recall 1/2, F1 2/3
    # class 2: 1 frame, 1 found, 2 predicted -> precision 1/2, recall 1, F1 2/3
    # class 3: 1 frame, 0 found, 0 predicted -> 0, 0, 0
    # class 4: 0 frames, 1 predicted -> 0, 0, 0
    found = metrics.class_metrics(np.array([1.0, 1, 2, 3]), np.array([1.0, 2, 2.2, 4]))
    assert found == pytest.approx(
        {
            "accuracy": 2 / 4,
            "precision_macro": (1 + 1 / 2) / 4,
            "recall_macro": (1 / 2 + 1) / 4,
            "f1_macro": (2 / 3 + 2 / 3) / 4,
            "precision_weighted": (2 * 1 + 1 / 2) / 4,
            "recall_weighted": (2 * 1 / 2 + 1) / 4,
            "f1_weighted": (2 * 2 / 3 + 2 / 3) / 4,
        }
    )


def test_a_perfect_counter():
    found = evaluation(predicted=ACTUAL)
    zero = ("mae", "rmse", "bias", "mae_ci_low", "mae_ci_high")
    one = ("accuracy", "precision_macro", "recall_macro", "f1_macro", "f1_weighted", "within_1")
    assert [found[name] for name in zero] == [0] * len(zero)
    assert [found[name] for name in one] == [1] * len(one)


def test_a_baseline_has_three_figures():
    assert metrics.baseline_metrics(ACTUAL, PREDICTED) == {
        "mae": 2.25,
        "rmse": 3.201562,
        "accuracy": 0.25,
    }


def test_smoothed_figures_by_hand():
    found = metrics.smoothed_metrics([4, 10, 12], [5, 8, 12], [4, 10, 13], [5, 10, 14])
    assert found == {"mae_smoothed": 1.0, "coverage_80_smoothed": 0.666667}


def test_metrics_are_rounded_floats():
    found = metrics.baseline_metrics([0, 0, 0], [1, 0, 0])
    assert found == {"mae": 0.333333, "rmse": 0.57735, "accuracy": 0.666667}
    assert json.loads(json.dumps(evaluation())) == evaluation()
    almost = [count - 1e-9 for count in ACTUAL]
    assert str(evaluation(predicted=almost)["bias"]) == "0.0"


def test_the_interval_of_independent_errors_is_the_textbook_one():
    errors = np.random.default_rng(1).exponential(size=5000)
    low, high = metrics.mae_interval(np.zeros(5000), errors)
    assert low < errors.mean() < high
    assert (high - low) / 2 == pytest.approx(1.96 * errors.std() / 5000**0.5, rel=0.15)


def test_the_interval_is_wider_when_neighbours_err_alike():
    single = np.random.default_rng(2).exponential(size=40)
    alike, mixed = np.repeat(single, 50), np.tile(single, 50)

    def width(errors):
        low, high = metrics.mae_interval(np.zeros(len(errors)), errors)
        return high - low

    # a frame-by-frame bootstrap would give both the same; 40 independent values, not 2000
    assert width(alike) > 4 * width(mixed)
    assert width(alike) == pytest.approx(2 * 1.96 * single.std() / 40**0.5, rel=0.35)


def test_the_interval_by_hand():
    # 8 frames make blocks of 2, drawn 4 at a time; errors 0 and 8 alternate, so each block means 4
    assert metrics.mae_interval(np.zeros(8), np.array([0.0, 8] * 4)) == (4, 4)


def test_the_interval_uses_circular_blocks():
    # the block that starts at the last frame has errors 8 and 0: without it the middle would be 0
    low, high = metrics.mae_interval(np.zeros(8), np.array([0.0] * 7 + [8]))
    assert (low, high) == (0, 3)


def test_the_interval_is_always_the_same():
    errors = np.random.default_rng(3).exponential(size=300)
    assert metrics.mae_interval(np.zeros(300), errors) == metrics.mae_interval(
        np.zeros(300), errors
    )


def test_one_frame_is_enough():
    assert metrics.mae_interval(np.array([3.0]), np.array([5.0])) == (2, 2)


def test_an_infinite_nll_names_max_count():
    with pytest.raises(UserError, match=r"not finite on 1 of 4 .* Raise evaluate.max_count"):
        evaluation(nll=[1.0, 2.0, np.inf, 1.0])


@pytest.mark.parametrize("predicted", [[1, 2], [[1], [2], [3], [4]], 3])
def test_columns_are_equally_long(predicted):
    with pytest.raises(ValueError, match="equally long, non-empty columns"):
        metrics.baseline_metrics(ACTUAL, predicted)


def test_no_frames_have_no_metrics():
    with pytest.raises(ValueError, match="non-empty"):
        metrics.baseline_metrics([], [])


def test_errors_per_camera():
    found = metrics.metrics_by_camera(ACTUAL, PREDICTED, ["door", "hall", "door", "hall"])
    assert found == {
        "door": {"frames": 2, "mae": 0.5, "bias": 0.5},
        "hall": {"frames": 2, "mae": 4.0, "bias": 2.0},
    }
