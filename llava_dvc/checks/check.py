"""The result of one check, and the error that stops a stage."""

from collections.abc import Iterable
from dataclasses import dataclass

from llava_dvc.errors import UserError


@dataclass(frozen=True)
class Check:
    """The result of one check."""

    name: str
    found: str
    """The value that was found."""
    fault: str | None = None
    """One line with setting, value and remedy. Training does not start with a fault."""
    note: str | None = None
    """One line about a setting that costs speed or accuracy. Training starts all the same."""


def raise_first_fault(checks: Iterable[Check]) -> None:
    """Raises UserError with the first fault, if there is one."""
    for check in checks:
        if check.fault:
            raise UserError(check.fault)
