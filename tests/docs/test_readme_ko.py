"""README.ko.md says what README.md says: the same headings, commands, figures, names and links."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.conftest import ROOT

ENGLISH, KOREAN = (
    (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README.ko.md")
)


@dataclass
class Section:
    heading: str
    level: int
    commands: list[str]
    rows: list[str]
    names: set[str]
    links: set[str]
    figures: set[str]


def sections(text: str) -> Iterator[Section]:
    """Comments in code blocks, and words, are what a translation may change."""
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    # A line that begins with # inside a code block is no heading: blocks are cut out first.
    blocks: list[str] = []

    def keep(found: re.Match[str]) -> str:
        blocks.append(found[0])
        return f"\x00{len(blocks) - 1}\x00"

    text = re.sub(r"^```.*?^```$", keep, text, flags=re.DOTALL | re.MULTILINE)
    for part in re.split(r"^(?=#+ )", text, flags=re.MULTILINE):
        if not part.strip():
            continue
        heading, _, body = part.partition("\n")
        inside = [blocks[int(number)] for number in re.findall("\x00(\\d+)\x00", body)]
        body = re.sub("\x00\\d+\x00", "", body)
        yield Section(
            heading,
            len(heading) - len(heading.lstrip("#")),
            [line for block in inside for line in _commands(block)],
            [" | ".join(_fixed(line)) for line in body.splitlines() if line.startswith("|")],
            set(re.findall(r"`([^`\n]+)`", body)),
            set(re.findall(r"<(http[^>]+)>|\]\(([^)]+)\)", body)),
            set(re.findall(r"\d+(?:[.,]\d+)*", re.sub(r"`[^`]*`", "", body))),
        )


def _commands(block: str) -> list[str]:
    """A shell's lines without their comments; of a drawing the names in it."""
    first, *lines = block.splitlines()[:-1]
    if first == "```bash":
        return [line.split("  #")[0].rstrip() for line in lines]
    names = re.findall(r"[\w/-]+\.(?:py|yaml|csv|json)\b|\b\w+/", block, re.ASCII)
    return [" ".join(sorted(set(names)))]


def _fixed(row: str) -> list[str]:
    """What no language changes of a table's row; it may change the order."""
    return sorted(re.findall(r"`[^`]+`|\d+(?:[.,]\d+)*%?", row))


def differences(original: str, translation: str) -> list[str]:
    """A line for everything that is out of step."""
    ours, theirs = list(sections(original)), list(sections(translation))
    found = [
        f"heading {n}: {one.heading!r} has become {other.heading!r}"
        for n, (one, other) in enumerate(zip(ours, theirs, strict=False), start=1)
        if one.level != other.level
    ]
    if len(ours) != len(theirs):
        found.append(
            f"{len(ours)} headings have become {len(theirs)}; "
            f"in README.md: {[one.heading for one in ours]}"
        )
    for one, other in zip(ours, theirs, strict=False):
        found += [f"{one.heading}: {line}" for line in _between(one, other)]
    return found


def _between(one: Section, other: Section) -> Iterator[str]:
    for kind in ("commands", "rows"):
        for place in range(max(len(getattr(one, kind)), len(getattr(other, kind)))):
            pair = [
                lines[place] if place < len(lines) else "nothing"
                for lines in (getattr(one, kind), getattr(other, kind))
            ]
            if pair[0] != pair[1]:
                yield f"{kind} {place + 1}: {pair[0]!r} has become {pair[1]!r}"
    for kind in ("names", "links"):
        apart = getattr(one, kind) ^ getattr(other, kind)
        if apart:
            yield f"{kind} in one of the two only: {sorted(map(str, apart))}"
    if missing := one.figures - other.figures:
        yield f"figures that are missing: {sorted(missing)}"


def test_the_korean_readme_is_in_step():
    found = differences(ENGLISH, KOREAN)
    assert found == [], "\n".join(["README.ko.md is out of step with README.md:", *found])


def test_it_is_korean():
    words = re.findall(r"[가-힣]+", KOREAN)
    assert len(words) > 500


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("\nmake repro\n", "\nmake all\n", "commands 2: 'make repro' has become 'make all'"),
        ("\n## ", "\n### ", "heading 2: '## The pipeline' has become"),
        ("| 6.37 |", "| 6.38 |", "rows 3: '5.0% | 6.37 | 7.74' has become"),
        ("`labels.csv`", "`label.csv`", "names in one of the two only"),
        ("300 computer", "301 computer", "figures that are missing: ['300']"),
        ("docs/frame.jpg", "docs/other.jpg", "links in one of the two only"),
    ],
)
def test_what_is_out_of_step_is_named(old, new, says):
    assert old in ENGLISH
    changed = ENGLISH.replace(old, new)
    found = differences(ENGLISH, changed)
    assert any(says in line for line in found), found
