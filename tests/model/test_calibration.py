"""A temperature that makes intervals as wide as the errors are."""

import numpy as np
import pytest

from llava_dvc.metrics import coverage
from llava_dvc.model.calibration import fit_temperature, tempered
from llava_dvc.model.counting import quantile


def bells(centres: np.ndarray, sigma: float) -> np.ndarray:
    """P(count) over 0 to 99, a row a centre."""
    scores = -0.5 * ((np.arange(100) - centres[:, None]) / sigma) ** 2
    mass = np.exp(scores)
    return mass / mass.sum(axis=1, keepdims=True)


def test_one_leaves_it_and_more_spreads_it():
    mass = np.array([[0.1, 0.2, 0.7], [0.0, 0.5, 0.5]])
    np.testing.assert_allclose(tempered(mass, 1.0), mass, atol=1e-9)
    np.testing.assert_allclose(tempered(mass, 2.0)[0], np.sqrt(mass[0]) / np.sqrt(mass[0]).sum())
    assert tempered(mass, 1e3).max() < 0.4
    np.testing.assert_allclose(tempered(mass, 3.0).sum(axis=1), 1)


@pytest.mark.parametrize("claimed", [1.0, 3.0, 6.0])
def test_coverage_is_right_whatever_was_claimed(claimed: float):
    """Errors have a spread of 3: a model that claims 1 is widened, one that claims 6 narrowed."""
    rng = np.random.default_rng(0)
    truth = rng.integers(20, 60, 400)
    mass = bells(truth + rng.normal(0, 3, 400), claimed)
    temperature = fit_temperature(mass[:200], truth[:200])
    assert temperature == pytest.approx((3 / claimed) ** 2, rel=0.25)
    later = tempered(mass[200:], temperature)
    low, high = quantile(later, 0.1), quantile(later, 0.9)
    assert 0.74 <= coverage(truth[200:], low, high) <= 0.9


def test_a_label_that_was_ruled_out_is_no_failure():
    assert fit_temperature(np.array([[1.0, 0.0], [1.0, 0.0]]), [1, 5]) > 7
