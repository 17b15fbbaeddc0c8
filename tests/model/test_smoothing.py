"""Smoothing over time, compared with the sum over every path of counts."""

from itertools import pairwise, product

import numpy as np
import pytest

from llava_dvc.metrics import coverage
from llava_dvc.model.calibration import tempered
from llava_dvc.model.counting import quantile
from llava_dvc.model.smoothing import (
    CountChain,
    find_sequences,
    fit_smoothing,
    fit_spread,
    label_steps,
    smooth,
)
from llava_dvc.recipe import Smoothing
from tests.model.test_calibration import bells


def draw(frames: int, counts: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.ones(counts), frames)


def sum_over_paths(probabilities: np.ndarray, smoothing: Smoothing, lag: int) -> np.ndarray:
    """Adds up every path of counts: the marginals from their definition."""
    frames, counts = probabilities.shape
    near = np.abs(np.subtract.outer(np.arange(counts), np.arange(counts)))
    steps = np.exp(-near / smoothing.spread)
    steps /= steps.sum(axis=1, keepdims=True)
    seen = probabilities ** (1 / smoothing.temperature)
    found = np.zeros_like(probabilities)
    for frame in range(frames):
        known = min(frames, frame + lag + 1)
        for path in product(range(counts), repeat=known):
            weight = np.prod([seen[t, n] for t, n in enumerate(path)])
            weight *= np.prod([steps[a, b] for a, b in pairwise(path)])
            found[frame, path[frame]] += weight
    return found / found.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("lag", [0, 1, 2, 9])
@pytest.mark.parametrize(
    ("frames", "counts", "spread", "temperature"),
    [(5, 3, 0.7, 1.0), (5, 4, 2.0, 3.0), (4, 4, 20.0, 0.5), (2, 1, 1.0, 1.0)],
)
def test_marginals_are_the_sums_over_all_paths(frames, counts, spread, temperature, lag):
    smoothing = Smoothing(spread=spread, temperature=temperature)
    mass = draw(frames, counts)
    wanted = sum_over_paths(mass, smoothing, lag)
    np.testing.assert_allclose(smooth(mass, smoothing, lag), wanted, atol=1e-12)
    if lag >= frames:
        np.testing.assert_allclose(smooth(mass, smoothing), wanted, atol=1e-12)


def test_a_certain_frame_decides_for_its_neighbours():
    smoothing = Smoothing(spread=0.5, temperature=1.0)
    mass = draw(5, 4)
    mass[2] = [0, 0, 1, 0]
    found = smooth(mass, smoothing)
    np.testing.assert_allclose(found, sum_over_paths(mass, smoothing, 9), atol=1e-12)
    assert found[2, 2] == pytest.approx(1)
    assert (found[[1, 3], 2] > mass[[1, 3], 2]).all()


def test_one_frame_is_only_tempered():
    mass = draw(1, 30)
    found = smooth(mass, Smoothing(spread=2.0, temperature=3.0))
    np.testing.assert_allclose(found, tempered(mass, 3.0), atol=1e-12)


@pytest.mark.parametrize("spread", [0.01, 2.0])
def test_a_long_sequence_of_certain_frames_does_not_underflow(spread):
    """From 3 to 95 in one step, after a thousand frames that rule out everything else."""
    mass = np.eye(100)[[3] * 1000 + [95] * 1000]
    smoothing = Smoothing(spread=spread, temperature=1.0)
    found = smooth(mass, smoothing)
    np.testing.assert_allclose(found.sum(axis=1), 1)
    assert (found.argmax(axis=1) == mass.argmax(axis=1)).all()
    np.testing.assert_allclose(smooth(mass, smoothing, 0).sum(axis=1), 1)


def test_memory_of_a_stream_does_not_grow():
    chain = CountChain(Smoothing(spread=2.0, temperature=2.0), 9)
    mass = draw(50, 10)
    stream = []
    for row in mass:
        chain.add(row)
        if len(chain) > 3:
            stream.append(chain.take(1))
        assert len(chain) <= 3
    stream.append(chain.take(len(chain)))
    wanted = smooth(mass, Smoothing(spread=2.0, temperature=2.0), 3)
    np.testing.assert_allclose(np.concatenate(stream), wanted, atol=1e-12)
    assert chain.take(len(chain)).shape == (0, 10)


# --- sequences ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "sequences"),
    [
        (["f_1.jpg", "f_2.jpg", "f_3.jpg"], [[0, 1, 2]]),
        (["f_0998.jpg", "f_0999.jpg", "f_1000.jpg"], [[0, 1, 2]]),
        (["f_1.jpg", "f_2.jpg", "f_4.jpg", "f_5.jpg"], [[0, 1], [2, 3]]),  # a jump
        (["f_10.jpg", "f_15.jpg", "f_20.jpg", "f_21.jpg"], [[0, 1, 2], [3]]),  # step 5
        (["a/f_1.jpg", "b/f_2.jpg"], [[0], [1]]),
        (["a1.jpg", "b2.jpg", "b3.jpg"], [[0], [1, 2]]),
        (["f_1_left.jpg", "f_1_right.jpg", "f_2_left.jpg"], [[0, 2], [1]]),
        (["f_1.jpg", "f_2.png"], [[0], [1]]),
        (["hall.jp2", "stairs.jp2"], [[0], [1]]),  # the digit of a suffix is no number
        (["hall.jpg", "hall.jpg"], [[0], [1]]),
        (["IMG_1034.jpg", "IMG_1078.jpg"], [[0], [1]]),  # unrelated pictures
        (["IMG_3.jpg", "IMG_48.jpg", "IMG_93.jpg", "IMG_94.jpg", "IMG_99.jpg"],
         [[0, 1, 2], [3], [4]]),
        (["IMG_3.jpg", "IMG_4.jpg", "IMG_9.jpg", "IMG_23.jpg"], [[0], [1], [2], [3]]),
        (["f_01.jpg", "f_1.jpg", "f_2.jpg"], [[0], [1, 2]]),
        (["f_3.jpg", "f_2.jpg", "f_1.jpg"], [[0], [1], [2]]),
        ([], []),
    ],
)  # fmt: skip
def test_sequences_end_where_names_or_numbers_jump(names, sequences):
    assert find_sequences(names, [None] * len(names)) == sequences


def test_a_sequence_has_one_camera():
    names = [f"seq_{number:06d}.jpg" for number in range(1, 8)]
    assert find_sequences(names, list("aaaabbb")) == [[0, 1, 2, 3], [4, 5, 6]]
    assert find_sequences(names, list("abababa")) == [[0, 2, 4, 6], [1, 3, 5]]


# --- fitting ------------------------------------------------------------------------------------


def test_steps_are_those_inside_sequences():
    assert label_steps([5, 7, 7, 20, 19], [[0, 1, 2], [3, 4]]).tolist() == [2, 0, 1]
    assert label_steps([5, 7], [[0], [1]]).tolist() == []


@pytest.mark.parametrize("spread", [0.4, 1.0, 5.0])
def test_the_spread_is_the_likeliest(spread):
    """The likelihood of steps on a chain that is too long to reach its ends."""
    steps = np.random.default_rng(0).geometric(0.4, 50) - 1
    far = np.arange(-2000, 2001)

    def nll(spread: float) -> float:
        return float(steps.mean() / spread + np.log(np.exp(-np.abs(far) / spread).sum()))

    found = fit_spread(steps)
    assert nll(found) <= min(nll(found * 1.02), nll(found / 1.02), nll(spread))


def test_labels_that_never_change_have_a_small_spread():
    assert 0.2 < fit_spread(np.zeros(10)) < 0.5
    assert 0.05 < fit_spread(np.zeros(10_000)) < fit_spread(np.zeros(10))


def noisy_walk(frames: int, correlation: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """True counts, and distributions whose errors of 6 people correlate from frame to frame."""
    rng = np.random.default_rng(seed)
    truth = np.clip(50 + rng.integers(-3, 4, frames).cumsum(), 5, 94)
    errors = [rng.normal(0, 6)]
    for noise in rng.normal(0, 6 * (1 - correlation**2) ** 0.5, frames - 1):
        errors.append(correlation * errors[-1] + noise)
    return truth, bells(truth + np.array(errors), 6.0)


@pytest.mark.parametrize("correlation", [0.0, 0.6])
def test_smoothed_intervals_stay_honest(correlation):
    """Where neighbours err alike, the frames count for less, and the interval is still right."""
    truth, mass = noisy_walk(400, correlation, seed=0)
    whole = [list(range(400))]
    fitted = fit_smoothing(label_steps(truth, whole), mass, truth, whole)
    assert (fitted.temperature > 2) == (correlation > 0)
    later, seen = noisy_walk(400, correlation, seed=1)
    found = smooth(seen, fitted)
    assert 0.72 <= coverage(later, quantile(found, 0.1), quantile(found, 0.9)) <= 0.9
    error = np.abs(quantile(found, 0.5) - later).mean()
    assert error < 0.9 * np.abs(quantile(seen, 0.5) - later).mean()


@pytest.mark.parametrize("bias", [0.0, 3.0])
def test_the_chain_is_wide_where_all_frames_err_alike(bias):
    truth, mass = noisy_walk(400, 0.0, seed=0)
    mass = np.roll(mass, int(bias), axis=1)
    whole = [list(range(400))]
    steps = label_steps(truth, whole)
    fitted = fit_smoothing(steps, mass, truth, whole)
    assert fitted.spread == fit_spread(steps) * (2 if bias else 1)


def test_without_neighbours_nothing_is_fitted():
    truth, mass = noisy_walk(4, 0.0, seed=0)
    steps, alone, whole = np.array([1, 2]), [[0], [1], [2], [3]], [[0, 1, 2, 3]]
    assert fit_smoothing(steps, mass, truth, alone) is None
    assert fit_smoothing(steps[:0], mass, truth, whole) is None
    assert fit_smoothing(steps, mass, truth, whole) is not None
