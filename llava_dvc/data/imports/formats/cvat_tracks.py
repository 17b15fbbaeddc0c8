"""The tracks of CVAT: where something is in each frame, also between the frames that are listed."""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

from llava_dvc.data.imports.annotations import AnnotationError, Mark


class TrackedShape(NamedTuple):
    frame: int
    marks: Sequence[Mark]
    """Empty if the shape is `outside`: the object is not in the picture."""


def shapes_by_frame(
    shapes: Iterable[TrackedShape], frames: range, keyframes_only: bool
) -> dict[int, Sequence[Mark]]:
    """The marks in each of the `frames` in which the object is visible; raises AnnotationError.

    CVAT lists every frame in which the object is. If a file has `keyframes_only`, the object moves
    in a straight line between two of them, and stays after the last one that is not `outside`.
    """
    listed: dict[int, TrackedShape] = {}
    for shape in shapes:
        if listed.setdefault(shape.frame, shape) is not shape:
            raise AnnotationError(f"frame {shape.frame} is there twice. Delete one.")
        if shape.frame not in frames:
            raise AnnotationError(
                f"frame {shape.frame} is not a frame of the task ({frames.start} to "
                f"{frames[-1]}, step {frames.step}). Export the task again."
            )
    ordered = [listed[frame] for frame in sorted(listed)]
    found: dict[int, Sequence[Mark]] = {}
    for shape, following in pairwise(ordered):
        for frame in range(shape.frame, following.frame, frames.step):
            found[frame] = _between(shape, following, frame)
    for shape in ordered[-1:]:
        # CVAT does not close a single shape of the last frame but one. It does not go on either.
        goes_on = keyframes_only and shape.frame + frames.step < frames[-1]
        stop = frames.stop if goes_on else shape.frame + 1
        found |= dict.fromkeys(range(shape.frame, stop, frames.step), shape.marks)
    return {frame: marks for frame, marks in found.items() if marks}


def _between(first: TrackedShape, second: TrackedShape, frame: int) -> Sequence[Mark]:
    if len(first.marks) != len(second.marks):  # the second is outside
        return first.marks
    share = (frame - first.frame) / (second.frame - first.frame)
    return [_moved(a, b, share) for a, b in zip(first.marks, second.marks, strict=True)]


def _moved(first: Mark, second: Mark, share: float) -> Mark:
    def at(start: float, end: float) -> float:
        return start + share * (end - start)

    return Mark(
        first.category,
        at(first.left, second.left),
        at(first.top, second.top),
        at(first.right, second.right),
        at(first.bottom, second.bottom),
    )
