"""The rows of blocks, as they come from a cluster: in any order, shown and written."""

import random

from llava_dvc.archive.blocks import Block, archive_file
from llava_dvc.archive.job import seal_blocks, show_progress
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
    for key, block in BLOCKS.items():
        row = {"block": key, "day": None, "time": None, "error": None} | shares
        for place, file in enumerate(block.files):
            yield row | {"place": place, "frame": file.path}
        yield row | {"place": len(block.files), "frame": None}


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


def test_a_log_gets_frames_per_second_and_the_time_left(capsys):
    assert list(show_progress(rows(), 10)) == list(rows())
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "count: 0 %"
    assert lines[5].startswith("count: 50 %, 00:00 left")
    assert lines[-1].startswith("count: 90 %, 00:00 left, ")
    assert lines[-1].endswith(" frames/s")
