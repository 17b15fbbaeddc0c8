"""Which wins: the label in labels.csv, or the answer in Label Studio."""

import pytest

from llava_dvc.labelling.merge_answers import Brought, StudioAnswer, merge_answers

EARLY, LATE = "2026-01-01T10:00:00Z", "2026-01-02T10:00:00Z"
TASK, OTHER = "http://studio/projects/1/5", "http://studio/projects/2/9"


def answer(count, sent=None, time=EARLY, task=TASK):
    return StudioAnswer("a.jpg", task, time, count, sent)


@pytest.mark.parametrize(
    ("label", "brought", "found", "expected", "word"),
    [
        (None, None, answer(12), 12, "new"),
        (None, None, answer(None), None, ""),
        (None, Brought(12, EARLY, TASK), answer(12), 12, "new"),  # its row was deleted
        (12, Brought(12, EARLY, TASK), answer(12), 12, ""),  # the second run
        (12, Brought(12, EARLY, TASK), answer(13, time=LATE), 13, "changed"),  # a correction
        (12, Brought(12, LATE, TASK), answer(13, time=EARLY), 13, "changed"),  # one of two deleted
        (12, Brought(12, EARLY, TASK), answer(None), None, "removed"),
        (14, Brought(12, EARLY, TASK), answer(None), 14, ""),  # by hand since
        (14, Brought(12, EARLY, TASK), answer(12), 14, "kept"),
        (14, Brought(12, EARLY, TASK), answer(13, time=LATE), 14, "kept"),  # nobody knows
        (14, None, answer(13), 14, "kept"),  # typed while it waited
        (17, None, answer(12, sent=17), 12, "changed"),  # a doubtful one
        (17, None, answer(None, sent=17), 17, ""),
        (17, None, answer(17, sent=17), 17, ""),  # it was right
        (16, None, answer(12, sent=17), 16, "kept"),
        (17, Brought(17, EARLY, OTHER), answer(12, sent=17, time=LATE), 12, "changed"),
        (12, Brought(12, LATE, OTHER), answer(17, time=EARLY), 12, ""),  # the older of two tasks
        (12, Brought(12, LATE, OTHER), answer(17, sent=12, time=EARLY), 12, ""),
        (12, Brought(12, LATE, OTHER), answer(None), 12, ""),
        (0, None, answer(5, sent=0), 5, "changed"),
        (None, None, answer(0), 0, "new"),
    ],
)
def test_the_newer_wins_and_a_label_made_by_hand_stays(label, brought, found, expected, word):
    labels = {} if label is None else {"a.jpg": label}
    record = {} if brought is None else {"a.jpg": brought}
    merged = merge_answers(labels, record, [found])
    assert merged.labels.get("a.jpg") == expected
    named = {w: getattr(merged, w) for w in ("new", "changed", "removed", "kept")}
    assert {w for w, frames in named.items() if frames} == ({word} if word else set())

    again = merge_answers(merged.labels, merged.record, [found])
    assert (again.labels, again.record) == (merged.labels, merged.record)
    assert again.new + again.changed + again.removed == []
