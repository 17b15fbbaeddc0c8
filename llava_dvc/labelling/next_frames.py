"""Which frames to label next: those that are far in time from all that have a label."""

from collections.abc import Collection, Sequence

import numpy as np


def spread_in_time(
    names: Sequence[str], groups: Sequence[str], known: Collection[str], number: int
) -> list[str]:
    """At most `number` of the `names` that are not `known`, the most useful first.

    `names` are in order of time, `groups` their cameras. Each next frame is the one whose nearest
    frame of its camera, among those that are known or chosen, is the most frames away. So every
    beginning of the list is spread over time and cameras too.
    """
    place = np.empty(len(names), dtype=int)
    away = np.empty(len(names))
    members = {group: np.flatnonzero(np.array(groups) == group) for group in set(groups)}
    for inside in members.values():
        place[inside] = np.arange(len(inside))
        # The middle of a camera without any label comes first.
        away[inside] = len(inside) + np.minimum(place[inside], place[inside][::-1])

    def take(index: int) -> None:
        inside = members[groups[index]]
        away[inside] = np.minimum(away[inside], abs(place[inside] - place[index]))

    for index, name in enumerate(names):
        if name in known:
            take(index)
    chosen: list[str] = []
    while len(chosen) < number and away.max(initial=0) > 0:
        index = int(away.argmax())
        take(index)
        chosen.append(names[index])
    return chosen
