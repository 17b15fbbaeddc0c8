"""A full disk, in every stage and while DVC commits what a stage wrote."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT, frame
from tests.faults.conftest import STAGES, Bench
from tests.pipeline.test_pipeline import call, set_param

SIZE = 240  # MiB
MAKE = ("make", "-f", str(ROOT / "Makefile"), "repro", "UV=/bin/true", "RUN=")
FULL = "the disk is full; free some space and run `dvc repro` again"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small disk of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}m", "tmpfs", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no right to mount a small disk: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk: Path, left: int) -> Path:
    """Leave so many bytes free; returns the file to delete."""
    filler = disk / "filler"
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(disk).free - left)
    return filler


def commands(bench: Bench) -> dict[str, str]:
    return {name: stage["cmd"] for name, stage in yaml.safe_load(bench.lock)["stages"].items()}


def only_prepare(more: str) -> str:
    """dvc.yaml with its first stage alone, and `more` done after it."""
    pipeline = yaml.safe_load((ROOT / "dvc.yaml").read_text())
    prepare = pipeline["stages"]["prepare"]
    prepare["cmd"] = prepare["cmd"].removeprefix("exec ") + more
    return yaml.safe_dump({"vars": pipeline["vars"], "stages": {"prepare": prepare}})


@pytest.mark.parametrize("stage", STAGES)
def test_a_full_disk_is_one_line_and_leaves_no_out(bench: Bench, disk: Path, stage: str):
    repo = disk / "repo"
    shutil.copytree(bench.kept / stage, repo, symlinks=True)
    filler = fill(disk, 0)
    done = call(repo, "bash", "-c", commands(bench)[stage])
    assert done.returncode == 1, done.stderr
    assert done.stderr.splitlines()[-1] == f"error: {repo}: {FULL}"
    assert "Traceback" not in done.stderr
    for out in yaml.safe_load(bench.lock)["stages"][stage]["outs"]:
        assert not (repo / out["path"]).exists()
    assert not list(repo.rglob("*.partial*"))
    filler.unlink()
    assert call(repo, "dvc", "repro", "--single-item", stage).returncode == 0
    after = yaml.safe_load((repo / "dvc.lock").read_text())["stages"][stage]
    assert after == yaml.safe_load(bench.lock)["stages"][stage]


def test_a_stage_leaves_room_for_dvcs_copy(bench: Bench, disk: Path):
    repo = disk / "repo"
    shutil.copytree(bench.kept / "prepare", repo, symlinks=True)
    fill(disk, 50 * 2**20)
    done = call(repo, "dvc", "repro", "prepare")
    assert done.returncode != 0
    assert "DVC's copy needs" in done.stderr
    assert not (repo / "prepared").exists()
    assert not (repo / "dvc.lock").exists()


@pytest.mark.parametrize("full", ["all", "cache"])
def test_a_disk_that_fills_while_dvc_commits_fails_make_repro(
    bench: Bench, tmp_path: Path, disk: Path, full: str
):
    """Another program takes the room between a stage's own check and DVC's copy: `dvc repro` exits
    0, or leaves dvc.lock cut short.
    """
    repo = (disk if full == "all" else tmp_path) / "repo"
    shutil.copytree(bench.kept / "baseline", repo, symlinks=True)  # has run prepare
    call(repo, "git", "add", "--force", "dvc.lock")
    call(repo, "git", "commit", "-qm", "lock")
    if full == "cache":
        cache = repo / ".dvc" / "cache"
        shutil.move(cache, disk)
        cache.symlink_to(disk / "cache")
    set_param(repo, "prompt.phrasings", "first")
    free = f"$(df --output=avail -B1 {disk} | tail -1)"
    take = f" && fallocate -l $(( {free} - 60000 )) {disk}/filler"
    (repo / "dvc.yaml").write_text(only_prepare(take))
    done = call(repo, *MAKE)
    assert (disk / "filler").exists(), done.stderr
    assert "No space left" in done.stderr
    assert done.returncode != 0
    if full == "cache":  # on one disk, dvc.lock's own room may be gone too
        assert "error: DVC could not keep" in done.stdout

    (disk / "filler").unlink()
    (repo / "dvc.yaml").write_text(only_prepare(""))
    done = call(repo, *MAKE)
    assert done.returncode == 0, done.stdout + done.stderr
    assert call(repo, "dvc", "status", "-q").returncode == 0


def test_a_lock_cut_short_is_restored(bench: Bench):
    repo = bench.reset("baseline")
    (repo / "dvc.yaml").write_text(only_prepare(""))
    assert call(repo, "dvc", "repro", "-q").returncode == 0
    call(repo, "git", "add", "--force", "dvc.lock")
    call(repo, "git", "commit", "-qm", "lock")
    lock = repo / "dvc.lock"
    whole = lock.read_text()
    lock.write_text("")  # as a disk without room for it leaves it
    assert call(repo, "dvc", "repro").returncode != 0
    done = call(repo, *MAKE)
    assert done.returncode == 0, done.stderr
    assert "restored from git" in done.stdout
    assert lock.read_text() == whole


@pytest.mark.parametrize("form", ["folder", "zip"])
def test_import_mall_on_a_full_disk_is_one_line_and_keeps_data(
    disk: Path, tmp_path: Path, form: str
):
    source, old = tmp_path / "source", disk / "data" / "labels.csv"
    (source / "frames").mkdir(parents=True)
    for number in range(1, 21):
        frame(number, (320, 240)).save(source / "frames" / f"{number}.png")  # 200 kB
    labels = "".join(f"{number}.png,3\n" for number in range(1, 21))
    (source / "labels.csv").write_text(f"frame,count\n{labels}")
    if form == "zip":
        source = Path(shutil.make_archive(str(source), "zip", source))
    old.parent.mkdir()
    old.write_text("id,count\n1,9\n")
    fill(disk, 2**20)
    done = call(disk, "llava-dvc", "import-mall", str(source))
    line = f"error: {disk}: the disk is full; free some space and run the command again\n"
    assert done.stderr == line
    assert done.returncode == 1
    assert old.read_text() == "id,count\n1,9\n"
    assert not list(disk.glob(".import-mall-*"))


def test_a_lock_with_a_merge_conflict_is_restored(bench: Bench):
    """DVC only says that it cannot parse the file, and git that the path is unmerged."""
    repo = bench.reset("baseline")
    (repo / "dvc.yaml").write_text(only_prepare(""))
    assert call(repo, "dvc", "repro", "-q").returncode == 0
    call(repo, "git", "add", "--force", "dvc.lock")
    call(repo, "git", "commit", "-qm", "lock")
    lock = repo / "dvc.lock"
    whole = lock.read_text()
    call(repo, "git", "checkout", "-qb", "other")
    for branch, digest in (("other", "1" * 32), ("ours", "2" * 32)):
        lock.write_text(re.sub("md5: [0-9a-f]{32}", f"md5: {digest}", whole, count=1))
        call(repo, "git", "commit", "-qam", branch)
        if branch == "other":
            call(repo, "git", "checkout", "-qb", "ours", "HEAD~1")
    assert call(repo, "git", "merge", "other").returncode != 0
    done = call(repo, *MAKE)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "restored from git" in done.stdout
    assert lock.read_text() == whole
