"""The adapter that counts the validation frames best is kept; what calibrates it had no say."""

import numpy as np
import pytest
import torch

from llava_dvc.training.checkpoint_selection import CheckpointSelection, cross_fit, median_error

COUNTS = np.array([2, 2, 5, 5])


def certain(*counts: int) -> np.ndarray:
    return np.eye(10)[list(counts)]


def weights(value: float) -> dict[str, torch.Tensor]:
    return {"lora_A": torch.full((2,), value)}


@pytest.fixture
def found(tmp_path):
    validations = CheckpointSelection(tmp_path / "validation", COUNTS)
    validations.add(10, certain(3, 3, 3, 3), weights(1))  # off by 1, 1, 2, 2
    validations.add(20, certain(2, 2, 5, 6), weights(2))  # off by 1 in all
    validations.add(30, certain(2, 3, 5, 5), weights(3))  # as good, but later
    return validations


def test_the_best_is_kept(found):
    assert found.errors() == {10: 1.5, 20: 0.25, 30: 0.25}
    assert found.best_step() == 20
    assert found.weights()["lora_A"].tolist() == [2, 2]
    assert [path.name for path in found.folder.glob("*.safetensors")] == ["20.safetensors"]


def test_a_resumed_training_goes_on_with_what_was_found(found):
    again = CheckpointSelection(found.folder, COUNTS)
    again.add(20, certain(2, 2, 5, 6), weights(2))  # from a checkpoint before step 20
    again.add(30, certain(2, 3, 5, 5), weights(3))
    assert again.weights()["lora_A"].tolist() == [2, 2]
    again.add(40, certain(2, 2, 5, 5), weights(4))
    assert again.weights()["lora_A"].tolist() == [4, 4]


def test_what_calibrates_had_no_say():
    early, late = certain(2, 2, 7, 7), certain(4, 4, 5, 5)  # each right on one half
    mass = cross_fit([early, late], COUNTS)
    assert mass.argmax(axis=1).tolist() == [4, 4, 7, 7]
    assert cross_fit([late, early], COUNTS).argmax(axis=1).tolist() == [4, 4, 7, 7]
    assert cross_fit([late], COUNTS) == pytest.approx(late)
    assert cross_fit([early, late], COUNTS[:1])[0].argmax() == 2


def test_median_error_is_of_the_medians():
    mass = np.array([[0.4, 0.35, 0.25], [0.0, 0.2, 0.8]])
    assert median_error(mass, np.array([0, 2])) == 0.5


def test_an_adapter_whose_weights_are_gone_is_not_chosen(found):
    """On a GPU a resumed training may not find the very errors it found before."""
    found.add(40, certain(2, 2, 5, 5), weights(4))  # the best, so step 20's weights go
    again = CheckpointSelection(found.folder, COUNTS)
    again.add(40, certain(9, 9, 9, 9), weights(4))  # counted anew, and worse
    assert again.best_step() == 40
    assert again.weights()["lora_A"].tolist() == [4, 4]
