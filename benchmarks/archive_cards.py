"""Measures how fast an archive is counted on one, two or more cards of one machine, without Ray.

    python -m benchmarks.random_adapter SKELETON /tmp/random
    python -m benchmarks.archive_cards /tmp/random/adapter --cards 1 2 4 --frames 6144

Each card has a process with the class that Ray runs there, `BlockCounter`. Processes that read get
blocks of 256 JPEGs from one queue, and put tables of ROWS rows into another, from which each card
takes the next one. Their pixels lie in shared memory, as in Ray's object store. The clock starts
when each card has counted its first table, and nothing is read ahead. A row of results is a line
of JSON. Its `ratio` is to the first row.
"""

import argparse
import json
import multiprocessing
import os
import queue
import sys
import tempfile
import time
import uuid
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
from pyarrow import feather

from benchmarks.prepare_scale import encode_images
from llava_dvc.archive.block_counter import ArchiveModel, BlockCounter
from llava_dvc.archive.blocks import Block, cut_blocks, list_files
from llava_dvc.archive.node_folder import remove_folder
from llava_dvc.archive.reading import read_block
from llava_dvc.recipe import Recipe

ROWS, BLOCK = 16, 256
"""As in llava_dvc.archive.cluster, which imports Ray, and in its ArchiveJob."""
IMAGES = 64  # that are encoded
AHEAD = 4  # tables that wait for each card
START, SILENCE = 240.0, 60.0  # seconds
SHARED = Path("/dev/shm")
PROCESSES = multiprocessing.get_context("spawn")  # a fork cannot use CUDA


class Line(NamedTuple):
    """What the processes of one measurement share."""

    blocks: Any
    tables: Any
    """Names of files with rows to count."""
    counted: Any
    """Numbers of counted frames, or the text of an error."""
    start: Any
    """The barrier at which the clock starts."""
    folder: str
    """In shared memory."""
    rows: int
    """Of a table."""


def main() -> None:
    arguments = parse_arguments()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        write_frames(Path(name), arguments.frames)
        blocks = list(cut_blocks(list_files([name]), BLOCK))
        first = None
        for cards in arguments.cards:
            seconds, each = measure(blocks, cards, arguments)
            rate = arguments.frames / seconds
            first = first or rate
            row = {
                "cards": cards,
                "rows": arguments.rows,
                "frames": arguments.frames,
                "seconds": round(seconds, 2),
            }
            row |= {"frames_per_second": round(rate, 2), "ratio": round(rate / first, 3)}
            sys.stdout.write(json.dumps(row | {"frames_of_each_card": each}) + "\n")
            sys.stdout.flush()


def measure(
    blocks: list[Block], cards: int, arguments: argparse.Namespace
) -> tuple[float, list[int]]:
    """Returns the seconds from the start to the last count, and the frames of each card."""
    model = ArchiveModel(arguments.adapter.absolute(), Path.cwd(), uuid.uuid4().hex)
    readers = cards * arguments.readers
    with tempfile.TemporaryDirectory(dir=SHARED if SHARED.is_dir() else None) as folder:
        line = Line(
            PROCESSES.Queue(),
            PROCESSES.Queue(AHEAD * cards),
            PROCESSES.Queue(),
            PROCESSES.Barrier(cards + readers + 1),
            folder,
            arguments.rows,
        )
        for block in [*blocks, *[None] * readers]:
            line.blocks.put(block)
        processes = [start_card(card, model, blocks[0], line) for card in range(cards)]
        for _ in range(readers):
            processes.append(PROCESSES.Process(target=read, args=(line,)))
            processes[-1].start()
        try:
            return follow(line, sum(len(block.files) for block in blocks), cards)
        finally:
            line.blocks.cancel_join_thread()  # else an error would wait for blocks to be read
            for process in processes:
                process.kill()
                process.join()
            remove_folder(model.job)


def start_card(card: int, model: ArchiveModel, block: Block, line: Line) -> Any:
    """Starts the process of a card, with the settings that Ray gives it."""
    threads = str(Recipe.read(model.folder).backbone.threads)
    os.environ |= {"CUDA_VISIBLE_DEVICES": str(card), "OMP_NUM_THREADS": threads}
    process = PROCESSES.Process(target=count, args=(card, model, block, line))
    process.start()
    return process


def follow(line: Line, frames: int, cards: int) -> tuple[float, list[int]]:
    """Waits for all processes, then for all counts."""
    each = [0] * cards
    line.start.wait(START)
    began = time.monotonic()
    while sum(each) < frames:
        try:
            card, found = line.counted.get(timeout=SILENCE)
        except queue.Empty:
            sys.exit(f"no frame was counted for {SILENCE:g} s, after {each}")
        if isinstance(found, str):
            sys.exit(found)
        each[card] += found
    return time.monotonic() - began, each


def count(card: int, model: ArchiveModel, block: Block, line: Line) -> None:
    """Counts tables until the process is ended. The first one loads the model."""
    multiprocessing.set_start_method("fork", force=True)  # of its loaders, as in a worker of Ray
    counter = BlockCounter(model)
    try:
        require_counts(counter(next(tables_of([block], line.rows))))
    except BaseException:
        line.start.abort()
        raise
    line.start.wait()
    while True:
        path = Path(line.tables.get())
        with pa.memory_map(str(path)) as file:
            path.unlink()
            found = counter(pa.ipc.open_file(file).read_all())
        try:
            line.counted.put((card, require_counts(found)))
        except ValueError as error:
            line.counted.put((card, str(error)))


def require_counts(found: pa.Table) -> int:
    """Returns how many frames have a count. Raises ValueError with the first error."""
    for error in found["error"].to_pylist():
        if error:
            raise ValueError(error)
    return len(found) - found["count"].null_count


def read(line: Line) -> None:
    """Reads blocks until none is left."""
    line.start.wait()
    for table in tables_of(iter(line.blocks.get, None), line.rows):
        path = f"{line.folder}/{uuid.uuid4().hex}"
        feather.write_feather(table, path, "uncompressed")
        line.tables.put(path)


def tables_of(blocks: Iterable[Block], size: int) -> Iterator[pa.Table]:
    """Yields what is read, in tables of `size` rows."""
    rows = chain.from_iterable(read_block(block, 1.0, None) for block in blocks)
    while some := list(islice(rows, size)):
        yield pa.concat_tables(some)


def write_frames(folder: Path, frames: int) -> None:
    images = encode_images("640x480", 90, IMAGES)
    for number in range(frames):
        (folder / f"{number:06d}.jpg").write_bytes(images[number % IMAGES])


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("adapter", type=Path)
    parser.add_argument("--cards", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--frames", type=int, default=4096)
    parser.add_argument("--readers", type=int, default=4, help="processes for each card")
    parser.add_argument("--rows", type=int, default=ROWS, help=f"of a table (Ray: {ROWS})")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    return parser.parse_args()


if __name__ == "__main__":
    main()
