"""What is wrong with a data folder: all of it, said at once."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llava_dvc.errors import UserError

SHOWN = 20
LONGEST = 80


@dataclass(frozen=True, slots=True)
class Problem:
    """One row or file that cannot be used; `skippable` is false when all hangs on it."""

    kind: str
    place: str
    """A file, or `file:line`."""
    text: str
    """What is wrong, with the value, and what to do."""
    frame: str | None = None
    skippable: bool = True

    def __str__(self) -> str:
        return f"{self.place}: {self.text}"


class DataError(UserError):
    """Everything that is wrong with a data folder. `report` is where all of it has been written."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__()
        self.problems = list(problems)
        self.report: Path | None = None

    def __str__(self) -> str:
        if len(self.problems) == 1:
            return str(self.problems[0])
        head = f"{len(self.problems)} problems: {tally(self.problems)}"
        return "\n".join([head, *table(self.problems[:SHOWN]), *self._last_line()])

    def _last_line(self) -> list[str]:
        more = len(self.problems) - SHOWN
        parts = [f"... and {more} more" if more > 0 else "", self.report and f"all: {self.report}"]
        return ["; ".join(part for part in parts if part)] if any(parts) else []

    def renamed(self, names: Mapping[Path, Path]) -> "DataError":
        """The same about other paths."""

        def rename(text: str) -> str:
            for ours, theirs in names.items():
                text = text.replace(str(ours), str(theirs))
            return text

        return DataError(
            [replace(p, place=rename(p.place), text=rename(p.text)) for p in self.problems]
        )


def by_kind(problems: Sequence[Problem]) -> dict[str, int]:
    """How many there are of each kind, the most frequent first."""
    return dict(Counter(problem.kind for problem in problems).most_common())


def tally(problems: Sequence[Problem]) -> str:
    """`3 count, 1 missing`."""
    return ", ".join(f"{n} {kind}" for kind, n in by_kind(problems).items())


def table(problems: Sequence[Problem]) -> list[str]:
    """Aligned lines of kind, place and text."""
    kind, place = (max(len(getattr(p, name)) for p in problems) for name in ("kind", "place"))
    return [f"  {p.kind:{kind}}  {p.place:{place}}  {p.text}" for p in problems]


def listing(problems: Sequence[Problem]) -> list[dict[str, Any]]:
    """As prepared/report.json has them."""
    return [
        {"kind": p.kind, "place": p.place, "frame": p.frame and plain(p.frame), "problem": p.text}
        for p in problems
    ]


def to_skip(problems: Sequence[Problem], on_error: str, max_skipped: int) -> list[Problem]:
    """The problems, when the rows and files that have them can be left out; else DataError."""
    if on_error == "stop" or not all(problem.skippable for problem in problems):
        if problems:
            raise DataError(problems)
    elif len(problems) > max_skipped:
        text = (
            f"data.max_skipped: is {max_skipped}, but {len(problems)} rows or files cannot be "
            "used. Mend them, or raise it."
        )
        raise DataError([Problem("too many", "params.yaml", text, skippable=False), *problems])
    return list(problems)


def shown(text: str) -> str:
    """Someone else's text in quotes, short enough for a line, with nothing that moves a cursor."""
    return repr(text if len(text) <= LONGEST else f"{text[:LONGEST]}...")


def plain(name: str) -> str:
    """A file's name as it is, unless a terminal could not show it."""
    return name if name.isprintable() else repr(name)
