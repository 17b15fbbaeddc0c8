"""`make repro` on a download without git's own files."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT


@pytest.fixture
def download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as from a zip: no .git there or above it."""
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    # In `make check`, a make inside make would print the folders that it enters.
    for name in ("GIT_DIR", "GIT_WORK_TREE", "MAKEFLAGS", "MAKELEVEL", "MFLAGS"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "llava-dvc-main"
    folder.mkdir()
    shutil.copy(ROOT / "Makefile", folder)
    return folder


def make_repro(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """With packages that are installed and a pipeline that has nothing to do."""
    return subprocess.run(
        ["make", "repro", "UV=/bin/true", "RUN=true"], cwd=folder, env=os.environ | environment,
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_a_download_without_git_says_what_to_do(download):
    done = make_repro(download)
    assert done.returncode != 0
    assert done.stdout == (
        "error: .git: not found, and DVC needs a git repository. Clone the repository with git. Or "
        "run: git init && git add -A && git commit -m Start. Then run make repro again.\n"
    )
    command = done.stdout.split("run: ")[1].split(". Then")[0]
    name = {"GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@example.org"}
    name |= {key.replace("AUTHOR", "COMMITTER"): value for key, value in name.items()}
    subprocess.run(command, shell=True, cwd=download, env=os.environ | name, check=True)
    assert make_repro(download).returncode == 0


def test_a_machine_without_git_says_so(download):
    tools = download.parent / "bin"
    tools.mkdir()
    for tool in ("make", "sh", "true", "grep"):
        (tools / tool).symlink_to(str(shutil.which(tool)))
    done = make_repro(download, PATH=str(tools))
    assert done.returncode != 0
    assert done.stdout == "error: git: not found. Install git. Then run make repro again.\n"


def test_a_repository_that_git_refuses_shows_gits_reason(download):
    (download / ".git").write_text("gitdir: /nowhere\n")
    done = make_repro(download)
    assert done.returncode != 0
    assert "fatal: not a git repository: /nowhere" in done.stderr
