"""Measures `llava-dvc predict --ray` on two nodes of one machine, with and without a killed node.

    python -m benchmarks.archive --frames 20000
    python -m benchmarks.archive --frames 5000 --adapter models/adapter --size 640x480
    python -m benchmarks.archive --frames 60 --size 3840x2160 --slow-disk 2

It writes its own JPEGs. Without --adapter, a random LLaVA of two narrow layers counts them: the
figures are then those of Ray, of reading and of writing, not of a model.
"""

import argparse
import importlib
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import psutil
import pyarrow.parquet as pq

from benchmarks.prepare_scale import encode_images
from llava_dvc.archive import results
from llava_dvc.archive.job import ArchiveJob, count_archive
from llava_dvc.model.backbone import backbone_encoder
from tests.conftest import config_on, write_adapter, write_checkpoint

CAMERAS, DAYS = 5, 4
IMAGES = 8  # that are encoded
INTERVAL = 5.0  # seconds between two looks at the memory, each of which takes a while
NODE = {"num_cpus": 2, "object_store_memory": 2**30}
PROCESSES = {"reader_mb": "MapBatches(read)", "model_mb": "BlockCounter"}
"""In the titles of the processes that read, and of those that count."""


def main() -> None:
    arguments = parse_arguments()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        adapter = arguments.adapter or dry_adapter(folder)
        write_archive(folder / "archive", arguments.frames, arguments.size)
        with slow_disk(arguments.slow_disk):
            calm = run(folder, adapter, "calm", kill=False)
            hurt = run(folder, adapter, "hurt", kill=True)
        same = answers(folder / "calm") == answers(folder / "hurt")
    report = {name: getattr(arguments, name) for name in ("frames", "size", "slow_disk")}
    report |= {"calm": calm, "killed": hurt, "same_answers": same}
    sys.stdout.write(json.dumps(report) + "\n")


def run(folder: Path, adapter: Path, name: str, kill: bool) -> dict[str, Any]:
    """Counts on a new cluster. With `kill`, one of its two nodes dies in the middle."""
    head = NODE | {"include_dashboard": False}
    importlib.import_module("llava_dvc.archive.cluster")  # says how Ray starts workers
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args=head)
    node = cluster.add_node(**NODE)
    job = ArchiveJob([str(folder / "archive")], adapter, folder / name)
    files = sum(path.is_file() for path in (folder / "archive").rglob("*"))
    killer = threading.Thread(target=kill_in_the_middle, args=(cluster, node, job.out, files))
    if kill:
        killer.start()
    with peak_memory() as peak:
        began = time.monotonic()
        count_archive(job, cluster.address)
        seconds = time.monotonic() - began
    if kill:
        killer.join()
    cluster.shutdown()
    rate = round(files / seconds, 1)
    return {"seconds": round(seconds, 1), "frames_per_second": rate, **peak}


def kill_in_the_middle(cluster: Any, node: Any, out: Path, files: int) -> None:
    def counted() -> int:
        blocks = (out / "blocks").glob("*.json")
        return sum(len(json.loads(path.read_text())["files"]) for path in blocks)

    while counted() < files / 2:
        time.sleep(0.2)
    cluster.remove_node(node, allow_graceful=False)


@contextmanager
def slow_disk(seconds: float) -> Iterator[None]:
    """Every file of the results takes so much longer to reach the disk."""

    def sync(file: int) -> None:
        time.sleep(seconds)
        os.fsync(file)

    with patch.object(results, "os", SimpleNamespace(fsync=sync)):
        yield


@contextmanager
def peak_memory() -> Iterator[dict[str, float]]:
    """Yields the most memory in MB while the block runs: of this process, of all of Ray's together,
    and of the largest that reads and that counts. Pages that processes share are shared out among
    them.
    """
    peak = dict.fromkeys(("command_mb", "ray_mb", *PROCESSES), 0.0)
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(INTERVAL):
            found = [(title(one), memory(one)) for one in psutil.Process().children(recursive=True)]
            now = {"command_mb": memory(psutil.Process()), "ray_mb": sum(size for _, size in found)}
            for name, text in PROCESSES.items():
                now[name] = max((size for other, size in found if text in other), default=0.0)
            peak.update({name: max(peak[name], round(value)) for name, value in now.items()})

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield peak
    finally:
        stop.set()
        watcher.join()


def title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def memory(process: psutil.Process) -> float:
    try:
        return float(process.memory_full_info().pss / 1e6)
    except psutil.Error:
        return 0.0


def write_archive(folder: Path, frames: int, size: str) -> None:
    images = encode_images(size, 90, IMAGES)
    for number in range(frames):
        day = folder / f"camera-{number % CAMERAS}" / f"2026-11-{20 + number // CAMERAS % DAYS}"
        day.mkdir(parents=True, exist_ok=True)
        (day / f"{number:06d}.jpg").write_bytes(images[number % len(images)])


def dry_adapter(folder: Path) -> Path:
    cfg = config_on(write_checkpoint(folder / "backbone"))
    return write_adapter(folder / "adapter", cfg, backbone_encoder(cfg.backbone, cfg.image))


def answers(out: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(out / "counts").to_pylist()
    return sorted(rows, key=lambda row: row["frame"])


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=20000)
    parser.add_argument("--size", default="96x72")
    parser.add_argument("--slow-disk", type=float, default=0.0, metavar="SECONDS")
    parser.add_argument("--adapter", type=Path)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    return parser.parse_args()


if __name__ == "__main__":
    main()
