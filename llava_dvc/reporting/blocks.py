"""What a report is made of. Both of its files show the same blocks."""

from typing import NamedTuple


class Text(NamedTuple):
    """A paragraph."""

    text: str


class Table(NamedTuple):
    """Rows of cells under a head."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


class Picture(NamedTuple):
    """A PNG file."""

    name: str
    """Of the file beside report.md."""
    title: str
    png: bytes


class Links(NamedTuple):
    """A list of files beside the report."""

    title: str
    links: tuple[tuple[str, str], ...]
    """The text of each, and its address."""


class ReportSection(NamedTuple):
    """A heading and what is below it."""

    title: str
    blocks: tuple[Text | Table | Picture | Links, ...]
