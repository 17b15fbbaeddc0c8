"""The rows of blocks, as they come from a cluster: in any order, shown and written."""

import random

from llava_dvc.archive.blocks import Block, archive_file
from llava_dvc.archive.job import seal_blocks, show_progress
from llava_dvc.terminal import progress
from tests.archive.conftest import counted

BLOCKS = {
    block.key: block
    for block in (
        Block(tuple(archive_file(f"/a/{name}/{number}.jpg", "/a") for number in range(5)))
        for name in ("door", "hall")
    )
}


def rows():
    shares = {"camera": "", "count": 3, "low": 2, "high": 5, "probabilities": [1.0]}
    shares |= {"seconds": 2.0}
    for key, block in BLOCKS.items():
        row = {"block": key, "day": None, "time": None, "error": None} | shares
        for place, file in enumerate(block.files):
            yield row | {"place": place, "file": file.path, "frame": file.path}
        yield row | {"place": len(block.files), "file": None, "frame": None}


def test_a_block_is_written_when_all_its_rows_are_there(results, tmp_path):
    shuffled = list(rows())
    random.Random(0).shuffle(shuffled)
    early, late = shuffled[:-1], shuffled[-1:]
    assert seal_blocks(early, BLOCKS, results) == 5
    assert len(counted(tmp_path / "out")) == 5
    assert seal_blocks([*early, *late], BLOCKS, results) == 10
    assert set(counted(tmp_path / "out")) == {
        file.path for block in BLOCKS.values() for file in block.files
    }


def arriving(parts, clock):
    """Rows of (seconds until they come, their number, what the process says it has counted)."""
    for wait, number, seconds in parts:
        clock[0] += wait
        yield from ({"frame": "1.jpg", "seconds": seconds} for _ in range(number))
        yield {"frame": None, "seconds": seconds}


def test_the_rate_is_that_of_the_counting_from_the_first_line_on(monkeypatch, capsys):
    """16 frames come at once after 4 seconds of counting. Loading took 90; it gave a failure."""
    clock = [0.0]
    monkeypatch.setattr(progress, "monotonic", lambda: clock[0])
    parts = [(90, 1, None), (4, 16, 4.0), (8, 32, 12.0)]
    assert len(list(show_progress(arriving(parts, clock), 161))) == 49 + 3
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "count: 0 %",
        "count: 10 %, 00:36 left, 4.0 frames/s",
        "count: 20 %, 00:48 left, 2.7 frames/s",
        "count: 30 %, 00:28 left, 4.0 frames/s",
    ]
