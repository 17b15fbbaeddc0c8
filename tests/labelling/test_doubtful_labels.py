"""Labels that the model doubts."""

from llava_dvc.data.labels import Label
from llava_dvc.labelling.doubtful_labels import doubtful_labels, doubtful_table
from llava_dvc.labelling.label_pool import LabelPool
from llava_dvc.labelling.studio_tasks import Guess


def pool_of(**counts: int) -> LabelPool:
    labels = {name: Label(1, name, count, None) for name, count in counts.items()}
    return LabelPool(None, list(counts), labels)


def guess(count: int, low: int, high: int) -> Guess:
    return Guess(count, low, high, 0.2, "")


def test_the_farthest_outside_the_interval_is_first():
    pool = pool_of(inside=14, edge=9, above=20, below=3, wide=27)
    guesses = {name: guess(12, 10, 14) for name in pool.names} | {"wide": guess(20, 10, 26)}
    doubts = doubtful_labels(pool, guesses)
    assert [doubt.frame for doubt in doubts] == ["below", "above", "wide", "edge"]
    table = doubtful_table(doubts[:1])
    assert table == "frame  label  model  interval\nbelow      3     12  10 to 14\n"
    assert doubtful_table([]) == "No label is outside the interval of the model's count.\n"
