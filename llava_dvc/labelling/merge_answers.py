"""Merges what was answered in Label Studio into the labels: the newer wins, and a hand-made label
is never overwritten by an older answer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class StudioAnswer:
    """What Label Studio says about a frame now."""

    frame: str
    task: str
    """Server, project and number of the task."""
    time: str
    """Of the last change of an annotation, in ISO form and UTC."""
    count: int | None
    """None if nobody has answered, or if the answer was deleted."""
    sent: int | None
    """The label that the frame had when it was sent."""


@dataclass(frozen=True)
class Brought:
    """The answer that was last brought for a frame."""

    count: int
    time: str
    task: str


@dataclass
class Merged:
    """The labels and the record as they should be, and what happens to each answer."""

    labels: dict[str, int]
    record: dict[str, Brought]
    taken: list[str] = field(default_factory=list)
    """Frames whose label is the answer, whether it was so before or not."""
    new: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    """Frames whose label was changed by hand; the answer is older, or nobody knows."""


def merge_answers(
    labels: Mapping[str, int], record: Mapping[str, Brought], answers: Sequence[StudioAnswer]
) -> Merged:
    """Decides for each frame between its label and its answer.

    A frame without a label takes the answer. A label that is as it was when the frame was sent, or
    when the answer was last brought, takes a changed answer, and goes if the answer is deleted. Any
    other label was made by hand since, and stays.
    """
    merged = Merged(dict(labels), dict(record))
    for answer in answers:
        before = record.get(answer.frame)
        same = before if before and before.task == answer.task else None
        if answer.count is None:
            if same:
                _delete(merged, answer.frame, same)
        elif _is_newer(answer, labels.get(answer.frame), before):
            _take(merged, answer)
        elif answer.count == labels[answer.frame]:
            merged.taken.append(answer.frame)
        elif same or not before or answer.time > before.time:
            merged.kept.append(answer.frame)
    return merged


def _is_newer(answer: StudioAnswer, ours: int | None, before: Brought | None) -> bool:
    """Whether the label is surely older than the answer."""
    if ours is None:
        return True
    if before and before.task == answer.task:
        return answer.count != before.count and ours in (before.count, answer.count)
    if before and answer.time <= before.time:
        return False  # an answer of another task is newer
    return ours in (answer.sent, answer.count)


def _take(merged: Merged, answer: StudioAnswer) -> None:
    frame, count = answer.frame, answer.count or 0
    old = merged.labels.get(frame)
    if old != count:
        (merged.new if old is None else merged.changed).append(frame)
    merged.taken.append(frame)
    merged.labels[frame] = count
    merged.record[frame] = Brought(count, answer.time, answer.task)


def _delete(merged: Merged, frame: str, before: Brought) -> None:
    del merged.record[frame]
    if merged.labels.get(frame) == before.count:
        del merged.labels[frame]
        merged.removed.append(frame)
