"""Problems of a data folder: all of them are collected, then raised as one error."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llava_dvc.errors import UserError, printable_text

MAX_LISTED = 20
"""Problems that an error message lists; prepared/report.json has all of them."""

MAX_QUOTED = 80
"""Characters of the user's text that a message repeats."""


@dataclass(frozen=True, slots=True)
class DataProblem:
    """One row or file that cannot be used."""

    kind: str
    """A word or two, counted in prepared/report.json; docs/data.md lists them all."""
    place: str
    """A file, or `file:line`."""
    text: str
    """What is wrong, with the value, and what to do."""
    frame: str | None = None
    """Name of the frame that is lost, if it is known."""
    skippable: bool = True
    """False when the other frames cannot be used without it."""

    def __str__(self) -> str:
        return f"{self.place}: {self.text}"


class DataError(UserError):
    """All problems of a data folder; `report` is the file that lists them, once it is written."""

    def __init__(self, problems: Sequence[DataProblem]) -> None:
        super().__init__()
        self.problems = list(problems)
        self.report: Path | None = None

    def __str__(self) -> str:
        if len(self.problems) == 1:
            return str(self.problems[0])
        head = f"{len(self.problems)} problems: {summarize_kinds(self.problems)}"
        return "\n".join([head, *problem_table(self.problems[:MAX_LISTED]), *self._last_line()])

    def _last_line(self) -> list[str]:
        more = len(self.problems) - MAX_LISTED
        parts = [f"... and {more} more" if more > 0 else "", self.report and f"all: {self.report}"]
        return ["; ".join(part for part in parts if part)] if any(parts) else []

    def with_paths(self, names: Mapping[Path, Path]) -> "DataError":
        """A copy that shows the paths `names.values()` instead of `names.keys()`."""

        def rename(text: str) -> str:
            for ours, theirs in names.items():
                text = text.replace(str(ours), str(theirs))
            return text

        return DataError(
            [replace(p, place=rename(p.place), text=rename(p.text)) for p in self.problems]
        )


def count_kinds(problems: Sequence[DataProblem]) -> dict[str, int]:
    """The number of problems of each kind, the most frequent kind first."""
    return dict(Counter(problem.kind for problem in problems).most_common())


def summarize_kinds(problems: Sequence[DataProblem]) -> str:
    """Returns text such as `3 count, 1 missing`."""
    return ", ".join(f"{n} {kind}" for kind, n in count_kinds(problems).items())


def problem_table(problems: Sequence[DataProblem]) -> list[str]:
    """Aligned lines of kind, place and text."""
    kind, place = (max(len(getattr(p, name)) for p in problems) for name in ("kind", "place"))
    return [f"  {p.kind:{kind}}  {p.place:{place}}  {p.text}" for p in problems]


def problem_rows(problems: Sequence[DataProblem]) -> list[dict[str, Any]]:
    """The rows of `rejected` in prepared/report.json."""
    return [
        {
            "kind": p.kind,
            "place": p.place,
            "frame": p.frame and printable_name(p.frame),
            "problem": p.text,
        }
        for p in problems
    ]


def skippable_problems(
    problems: Sequence[DataProblem], on_error: str, max_skipped: int
) -> list[DataProblem]:
    """Returns `problems` when all of them may be skipped; raises DataError otherwise.

    `on_error` and `max_skipped` are the settings of `data` in params.yaml.
    """
    if on_error == "stop" or not all(problem.skippable for problem in problems):
        if problems:
            raise DataError(problems)
    elif len(problems) > max_skipped:
        text = (
            f"data.max_skipped: is {max_skipped}, but {len(problems)} rows or files cannot be "
            "used. Correct them, or set data.max_skipped to a larger number."
        )
        raise DataError([DataProblem("too many", "params.yaml", text, skippable=False), *problems])
    return list(problems)


def quoted(text: str) -> str:
    """`text` in quotes, cut to MAX_QUOTED characters, with control characters escaped."""
    return repr(text if len(text) <= MAX_QUOTED else f"{text[:MAX_QUOTED]}...")


def few_names(names: Sequence[str]) -> str:
    """The first five names in one line, and how many there are more."""
    shown = ", ".join(map(printable_name, names[:5]))
    return f"{shown} and {len(names) - 5} more" if len(names) > 5 else shown


def printable_name(name: str) -> str:
    """A file's name, escaped if it holds characters that a terminal cannot show."""
    return name if printable_text(name) == name and "\n" not in name else repr(name)
