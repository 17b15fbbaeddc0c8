"""`llava-dvc predict SOURCE --ray ADDRESS --out DIR`: counts an archive on a Ray cluster."""

import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from llava_dvc.archive.block_counter import ArchiveModel
from llava_dvc.archive.blocks import Block, cut_blocks, list_files
from llava_dvc.archive.cluster import connected, counted_rows
from llava_dvc.archive.reading import Row
from llava_dvc.archive.results import ResultFolder
from llava_dvc.recipe import Recipe, adapter_sha256, require_unchanged
from llava_dvc.serving.adapter_source import find_adapter
from llava_dvc.serving.sources import Source, estimate_total, print_note, require_seconds
from llava_dvc.terminal.progress import ProgressBar


@dataclass(frozen=True)
class ArchiveJob:
    """What is counted, with what, and where the counts go."""

    sources: Sequence[str]
    adapter: str | Path
    out: Path
    every: float = 1.0
    """Seconds between two frames of a video."""
    block_size: int = 256
    """Pictures that are finished together, or counted again after the command was killed."""


def count_archive(job: ArchiveJob, address: str) -> None:
    """Counts all files that gave no count yet, and says how many frames.

    `address` is that of a running cluster, or `auto` for the one that this machine belongs to.
    Raises UserError.
    """
    require_seconds("--every", job.every)
    folder = find_adapter(job.adapter).absolute()
    recipe = Recipe.read(folder)
    require_unchanged(folder)
    files = list_files(job.sources)
    began, frames = time.monotonic(), 0
    made_by = {"adapter": adapter_sha256(folder), "every": job.every}
    with closing(ResultFolder(job.out, made_by)) as results:
        blocks = list(cut_blocks(files, job.block_size, results.finished_files()))
        if blocks:
            with connected(address, recipe.backbone.threads) as name:
                if again := results.forget_failures(blocks):
                    print_note(f"files that could not be read are tried again: {again}")
                model = ArchiveModel(folder, Path.cwd(), name)
                rows = counted_rows(blocks, model, recipe, job.every)
                rows = show_progress(rows, estimate_frame_total(blocks, job.every))
                frames = seal_blocks(rows, {block.key: block for block in blocks}, results)
        failed = results.write_failed()
    seconds = time.monotonic() - began
    sys.stdout.write(f"{frames} frames counted in {seconds:.0f} s: {job.out / 'counts'}\n")
    if failed:
        sys.stdout.write(f"{failed} files or frames cannot be read: {job.out / 'failed.parquet'}\n")


def seal_blocks(rows: Iterable[Row], blocks: Mapping[str, Block], results: ResultFolder) -> int:
    """Writes each block when all its rows are there. Returns the number of frames with a count."""
    waiting: dict[str, dict[int, Row]] = {}
    lengths: dict[str, int] = {}
    frames = 0
    for row in rows:
        key = row["block"]
        found = waiting.setdefault(key, {})
        if row["frame"] is None:
            lengths[key] = row["place"]
        else:
            found[row["place"]] = row
        if len(found) == lengths.get(key):
            del waiting[key]
            results.seal(blocks[key], list(found.values()))
            frames += sum(one["error"] is None for one in found.values())
    return frames


def show_progress(rows: Iterable[Row], total: int) -> Iterator[Row]:
    """Yields the rows, and shows how many frames of `total` came, how fast, and the time left."""
    bar = ProgressBar("count", max(1, total), unit="frames")
    begun = False
    for row in rows:
        if not begun and row["seconds"] is not None:
            begun = True
            bar.begin(row["seconds"])  # the first rows come late, and many at once
        if row["frame"] is not None:
            bar.advance(1)
        yield row
    bar.close()


def estimate_frame_total(blocks: Iterable[Block], every: float) -> int:
    """Returns how many frames `blocks` hold, as far as names and local videos tell."""
    files = [file for block in blocks for file in block.files]
    sources = [Source(Path(file.path), file.is_video) for file in files]
    return estimate_total(sources, every)
