"""Counts of few rows at a time, without a cluster."""

import tempfile
from uuid import uuid4

import pyarrow as pa
import pytest

from llava_dvc.archive.block_counter import ArchiveModel, BlockCounter
from llava_dvc.archive.blocks import cut_blocks, list_files
from llava_dvc.archive.reading import read_block
from tests.archive.conftest import predicted, write_day


@pytest.mark.parametrize("rows", [1, 10])
def test_the_digits_do_not_depend_on_the_number_of_rows(
    wide_adapter, tmp_path, tmp_path_factory, monkeypatch, rows
):
    """A batch of one frame would have others: here the first, or the last of nine."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("node")))
    write_day(tmp_path / "hall", 9, 0)
    (block,) = cut_blocks(list_files([str(tmp_path)]), 9)
    tables = list(read_block(block, 1.0, None))
    counter = BlockCounter(ArchiveModel(wide_adapter, tmp_path, uuid4().hex))
    parts = [pa.concat_tables(tables[at : at + rows]) for at in range(0, 10, rows)]
    found = [row for part in parts for row in counter(part).to_pylist()]
    assert found[-1]["frame"] is None
    digits = {row["frame"]: row["probabilities"] for row in found[:-1]}
    assert digits == {name: row[3] for name, row in predicted(tmp_path, wide_adapter).items()}
