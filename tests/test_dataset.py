"""prepared/ as it lies on disk."""

from itertools import islice
from pathlib import Path

import pytest
from datasets import Dataset, DatasetDict, Image, load_from_disk

from llava_dvc.dataset import FEATURES, load_split, write_split, write_splits
from llava_dvc.errors import UserError
from tests.conftest import conversation


def some(rows: int, size: int = 1000):
    """Rows whose pictures are bytes that nobody decodes."""
    for n in range(rows):
        yield {
            "frame": f"cam/{n}.jpg",
            "image": {"path": f"{n}.jpg", "bytes": n.to_bytes(4, "big") * (size // 4)},
            "count": n,
            "camera": None if n % 2 else "door",
            "points": None if n % 2 else [{"x": 1.5, "y": float(n)}] * (n % 5),
            "messages": conversation(n),
        }


def raw(rows: Dataset) -> list[dict]:
    return rows.cast_column("image", Image(decode=False)).to_list()


def test_it_is_what_the_library_would_have_written(tmp_path):
    parts = {"train": 250, "val": 1, "eval": 3}
    write_splits(tmp_path / "ours", {name: some(n) for name, n in parts.items()})
    DatasetDict(
        {name: Dataset.from_list(list(some(n)), features=FEATURES) for name, n in parts.items()}
    ).save_to_disk(tmp_path / "theirs")
    ours, theirs = (load_from_disk(tmp_path / name) for name in ("ours", "theirs"))
    assert {name: len(rows) for name, rows in ours.items()} == parts
    for name, rows in theirs.items():
        assert ours[name].features == rows.features == FEATURES
        assert raw(ours[name]) == raw(rows)


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_equal_rows_are_equal_bytes_and_others_another_fingerprint(tmp_path):
    for name, rows in (("one", 120), ("two", 120), ("other", 121)):
        write_split(tmp_path / name, some(rows))
    assert files(tmp_path / "one") == files(tmp_path / "two")
    prints = [load_split(tmp_path, name)._fingerprint for name in ("one", "two", "other")]
    assert prints[0] == prints[1] != prints[2]


@pytest.mark.parametrize("limit", [300_000, 1_000_000])
def test_no_file_is_larger_than_the_limit(tmp_path, limit):
    write_split(tmp_path / "train", some(1000), limit)
    sizes = [path.stat().st_size for path in (tmp_path / "train").glob("*.arrow")]
    assert len(sizes) > 1
    assert max(sizes) <= limit
    assert raw(load_split(tmp_path, "train")) == list(some(1000))


def test_rows_are_written_as_they_come(tmp_path):
    """A generator is never more than a batch ahead of the file."""
    held: list[int] = []

    def watched():
        for n, row in enumerate(some(400, size=1_000_000)):
            written = sum(path.stat().st_size for path in (tmp_path / "train").glob("*.arrow"))
            held.append(n * 1_000_000 - written)
            yield row

    write_split(tmp_path / "train", islice(watched(), 60))
    assert max(held) <= 17_000_000


def test_pictures_come_from_a_memory_map(tmp_path):
    write_split(tmp_path / "train", some(3))
    mapped = {block["filename"] for block in load_split(tmp_path, "train").cache_files}
    assert mapped == {str(tmp_path / "train" / "data-00000-of-00001.arrow")}


def test_what_is_not_there_is_said(tmp_path):
    with pytest.raises(UserError, match=r"train: not found; run `dvc repro`"):
        load_split(tmp_path, "train")
