"""Labels that the model doubts."""

import pytest

from llava_dvc.data.labels import Label
from llava_dvc.labelling.doubtful_labels import doubtful_labels, doubtful_table, usual_errors
from llava_dvc.labelling.label_pool import LabelPool
from llava_dvc.labelling.studio_tasks import Guess


def pool_of(**counts: int) -> LabelPool:
    labels = {name: Label(1, name, count, None) for name, count in counts.items()}
    return LabelPool(None, list(counts), labels)


def guess(count: int, low: int, high: int) -> Guess:
    return Guess(count, low, high, 0.2, "")


def test_the_largest_difference_is_first():
    pool = pool_of(equal=12, near=13, above=20, below=3)
    doubts = doubtful_labels(pool, {name: guess(12, 10, 14) for name in pool.names})
    assert [doubt.frame for doubt in doubts] == ["below", "above", "near"]
    table = doubtful_table(doubts[:1])
    assert table == (
        "frame  label  expected  model  interval\nbelow      3      12.0     12  10 to 14\n"
    )
    assert doubtful_table([]) == "No label differs from the model's count by a person or more.\n"


def test_an_error_that_the_frames_around_have_too_is_the_models():
    """The model misses 4 people on each of the first five frames; one label there is 5 too low."""
    names = [f"f{number}" for number in range(1, 8)]
    counts = dict(zip(names, [14, 14, 9, 14, 14, 10, 12], strict=True))
    pool = pool_of(**counts)
    doubts = doubtful_labels(pool, {name: guess(10, 7, 13) for name in names})
    assert doubts[0].frame == "f3"
    assert doubts[0].expected == pytest.approx(10 + 0.8 * 4)


def test_frames_that_do_not_follow_each_other_are_not_compared():
    """The second camera's frame has the number after, and the last one is far away."""
    labels = {
        name: Label(1, name, 14, camera)
        for name, camera in (("f1", "door"), ("f2", "hall"), ("f9", "door"))
    }
    doubts = doubtful_labels(
        LabelPool(None, list(labels), labels), dict.fromkeys(labels, guess(10, 7, 13))
    )
    assert [doubt.difference for doubt in doubts] == [4, 4, 4]


def test_the_usual_error_is_that_of_two_frames_before_and_two_after():
    assert usual_errors([1, 2, 30, 4, 5]) == [16, 4, 3, 5, 17]
    assert usual_errors([7]) == [0]
