"""What a stage shows while it runs: a bar, and one line at its end.

Without a terminal, the bar is a line at every tenth. Nothing here decides a result.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from time import monotonic, time

from tqdm import tqdm

from llava_dvc.pipeline_file import declared_stages

FORMAT = "{desc}: {percentage:3.0f} % |{bar:30}| {remaining} left{postfix}"
FORMAT_WITH_RATE = FORMAT.replace("{postfix}", ", {rate_noinv_fmt}{postfix}")
Advance = Callable[[int], None]
_reported_to: ContextVar[Advance | None] = ContextVar("reported_to", default=None)


class ProgressBar:
    """A bar on a terminal, and lines elsewhere, both on standard error."""

    def __init__(self, label: str, total: int, done: int = 0, unit: str = "") -> None:
        """`done` of `total` are done already: a resumed training does not begin at 0. With `unit`,
        for example frames, the rate is shown too.
        """
        self._label, self._total, self._done, self._figures = label, total, done, ""
        self._unit = unit
        self._start, self._first, self._tenth = monotonic(), done, -1
        self._bar = tqdm(
            desc=label, total=total, initial=done, leave=False, dynamic_ncols=True, miniters=1,
            unit=f" {unit}", bar_format=FORMAT_WITH_RATE if unit else FORMAT, file=sys.stderr,
            disable=not sys.stderr.isatty(),
        )  # fmt: skip
        self.advance(0)

    def advance(self, amount: int) -> None:
        """Counts `amount` more as done. 0 says that the work begins now."""
        if not amount:
            self.begin()
        self._done += amount
        self._bar.update(amount)
        tenth = 10 * self._done // self._total
        if self._bar.disable and self._tenth < tenth < 10:
            self._tenth = tenth
            sys.stderr.write(f"{self._label}: {10 * tenth} %{self._pace()}{self._figures}\n")
            sys.stderr.flush()

    def begin(self, ago: float = 0.0) -> None:
        """Says that the work began `ago` seconds ago. What went before, such as loading, is not in
        the time left.
        """
        self._start, self._first = monotonic() - ago, self._done
        self._bar.start_t = self._bar.last_print_t = time() - ago

    def show(self, figures: str) -> None:
        """Shows `figures` behind the bar from now on."""
        self._figures = f", {figures}"
        self._bar.set_postfix_str(figures)

    def close(self) -> None:
        """Removes the bar from the terminal."""
        self._bar.close()

    def _pace(self) -> str:
        """Returns the time left, and the rate if it is shown."""
        done, seconds = self._done - self._first, monotonic() - self._start
        if not done:
            return ""
        left = tqdm.format_interval(seconds / done * (self._total - self._done))
        rate = f", {done / seconds:.1f} {self._unit}/s" if self._unit and seconds else ""
        return f", {left} left{rate}"


def stage_label(stage: str) -> str:
    """`[3/5] train`: the stage and its place in dvc.yaml."""
    stages = list(declared_stages())
    return f"[{stages.index(stage) + 1}/{len(stages)}] {stage}" if stage in stages else stage


def tell(stage: str, text: str) -> None:
    """Writes a line that says what the stage has made."""
    sys.stdout.write(f"{stage_label(stage)}: {text}\n")
    sys.stdout.flush()


@contextmanager
def progress(stage: str, total: int) -> Iterator[None]:
    """Shows a bar of a stage. Each call of `advance` in the block moves it."""
    bar = ProgressBar(stage_label(stage), total)
    try:
        with reported_to(bar.advance):
            yield
    finally:
        bar.close()


@contextmanager
def reported_to(report: Advance) -> Iterator[None]:
    """Calls `report` for each call of `advance` in the block."""
    token = _reported_to.set(report)
    try:
        yield
    finally:
        _reported_to.reset(token)


def advance(amount: int) -> None:
    """Says that `amount` more are done. Does nothing if nobody shows it."""
    report = _reported_to.get()
    if report:
        report(amount)
