"""`llava-dvc predict --ray` counts as `predict` does, also if processes and nodes are killed."""

import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
import pytest

from llava_dvc.archive.job import ArchiveJob, count_archive
from tests.archive.conftest import (
    cluster,  # noqa: F401 a fixture
    counted,
    failed,
    left_folders,  # noqa: F401 a fixture
    node_args,  # noqa: F401 a fixture
    one_node,
    predicted,
    rows_of,
    wide_adapter,  # noqa: F401 a fixture
    write_day,
)
from tests.serving.conftest import clip  # noqa: F401 a fixture

COMMAND = """
import sys
from pathlib import Path
from llava_dvc.archive.job import ArchiveJob, count_archive
source, adapter, out, address = sys.argv[1:]
count_archive(ArchiveJob([source], adapter, Path(out), block_size=8), address)
"""


def test_counts_are_those_of_predict_to_the_last_digit(
    cluster,  # noqa: F811
    wide_adapter,  # noqa: F811
    tmp_path,
    clip,  # noqa: F811
    left_folders,  # noqa: F811
    capsys,
):
    """With blocks of other sizes, on one and on two nodes, in a second run that adds frames and
    mends one.
    """
    archive, out = tmp_path / "archive", tmp_path / "out"
    write_day(archive / "hall" / "2026-11-26", 9, 0)
    write_day(archive / "door" / "2026-11-27", 2, 20)
    broken = archive / "door" / "2026-11-27" / "08-01-00.png"
    broken.write_bytes(b"no image")
    shutil.move(clip, archive / "hall" / "2026-11-26_clip.mp4")
    job = ArchiveJob([str(archive)], wide_adapter, out, block_size=9)
    count_archive(job, cluster.address)
    first = {path: path.stat().st_mtime_ns for path in (out / "counts").rglob("*.parquet")}
    assert counted(out) == predicted(archive, wide_adapter)
    assert failed(out)[str(broken)].startswith(f"{broken}: is not in a known image format")
    rows = {row["frame"].rpartition("/")[2]: row for row in rows_of(out)}
    assert (rows["08-01-00.png"]["camera"], rows["08-01-00.png"]["day"]) == ("hall", "2026-11-26")
    assert rows["08-01-00.png"]["time"] == datetime(2026, 11, 26, 8, 1)
    assert rows["2026-11-26_clip.mp4#t=4"]["day"] == "2026-11-26"

    assert left_folders() == []

    write_day(archive / "hall" / "2026-11-26", 12, 0)
    write_day(archive / "yard" / "2026-11-26", 7, 40)
    shutil.copy(archive / "hall" / "2026-11-26" / "08-00-00.png", broken)
    capsys.readouterr()
    count_archive(replace(job, block_size=4), cluster.address)
    assert "note: files that could not be read are tried again: 1\n" in capsys.readouterr().err
    assert counted(out) == predicted(archive, wide_adapter)
    assert failed(out) == {}
    assert {path: path.stat().st_mtime_ns for path in first} == first


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> Path:
    """500 frames of two cameras. Two are broken."""
    folder = tmp_path_factory.mktemp("archive")
    for seed, camera in enumerate(("door", "hall")):
        for day in range(5):
            write_day(folder / camera / f"2026-11-{day + 20}", 50, 1000 * seed + 100 * day)
        (folder / camera / "2026-11-20" / "08-49-00.png").write_bytes(b"no image")
    return folder


@pytest.fixture(scope="module")
def undisturbed(archive, wide_adapter) -> Any:  # noqa: F811
    found = predicted(archive, wide_adapter)
    assert len(found) == 498
    return found


@pytest.fixture
def job(archive, wide_adapter, tmp_path):  # noqa: F811
    return ArchiveJob([str(archive)], wide_adapter, tmp_path / "out", block_size=8)


def finished(job) -> int:
    return len(list((job.out / "blocks").glob("*.json")))


def wait_for_blocks(job, number: int) -> None:
    until = time.monotonic() + 300
    while finished(job) < number:
        assert time.monotonic() < until
        time.sleep(0.05)


def kill_workers(cluster) -> None:  # noqa: F811
    """SIGKILL to one process that counts, and to one that reads."""
    names = {"BlockCounter": None, "MapBatches(read)": None}
    for process in psutil.process_iter(["cmdline"]):
        for name in names:
            if name in " ".join(process.info["cmdline"] or ()) and names[name] is None:
                names[name] = process
                process.kill()
    assert names["BlockCounter"]


def test_killed_workers_and_a_killed_node_change_no_digit(cluster, node_args, job, undisturbed):  # noqa: F811
    node, left = cluster.add_node(**node_args), []

    def disturb() -> None:
        wait_for_blocks(job, 3)
        kill_workers(cluster)
        wait_for_blocks(job, 12)
        cluster.remove_node(node, allow_graceful=False)
        left.append(finished(job))

    killer = threading.Thread(target=disturb)
    killer.start()
    count_archive(job, cluster.address)
    killer.join()
    assert left[0] < 60, "the node was killed too late"
    assert counted(job.out) == undisturbed
    assert len(failed(job.out)) == 2


def test_a_killed_command_goes_on_with_other_blocks(cluster, job, undisturbed, left_folders):  # noqa: F811
    arguments = [job.sources[0], job.adapter, job.out, cluster.address]
    process = subprocess.Popen([sys.executable, "-c", COMMAND, *map(str, arguments)])
    wait_for_blocks(job, 10)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 10 <= finished(job) < 60
    blocks = [path.stem for path in (job.out / "blocks").glob("*.json")]
    files = (job.out / "counts").rglob("*.parquet")
    kept = {path: path.stat().st_mtime_ns for path in files if path.stem in blocks}
    assert len(kept) >= 10
    assert len(left_folders()) == 1
    count_archive(replace(job, block_size=30), cluster.address)
    assert counted(job.out) == undisturbed
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert len(failed(job.out)) == 2
    assert left_folders() == []


def test_an_archive_in_a_bucket(job, bucket, node_args, undisturbed, archive):  # noqa: F811
    """The nodes start with the address of the bucket in their environment."""
    folder = archive / "hall" / "2026-11-21"
    for path in folder.iterdir():
        bucket.upload_file(str(path), f"archive/hall/2026-11-21/{path.name}")
    running = one_node(node_args)
    count_archive(replace(job, sources=["s3://llava/archive"]), running.address)
    running.shutdown()
    local = {
        name.replace("s3://llava/archive", str(archive)): of
        for name, of in counted(job.out).items()
    }
    assert local == {str(path): undisturbed[str(path)] for path in folder.iterdir()}
