"""An import that is killed or interrupted loses nothing, and leaves nothing to the next one."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from llava_dvc.data.imports import mall
from llava_dvc.data.imports.import_folder import import_folder
from llava_dvc.data.labels import read_labels
from llava_dvc.errors import UserError
from tests.conftest import ROOT
from tests.data.imports.test_mall import copys_labels, source, zipped

__all__ = ["source"]  # a fixture

SIGNAL_AT = """
import os, sys
event, number, send = sys.argv.pop(1), int(sys.argv.pop(1)), int(sys.argv.pop(1))
seen = []
def end(name, arguments):
    if name == event and ".import-mall-" in str(arguments[:2]):
        seen.append(name)
        if len(seen) == number:
            os.kill(os.getpid(), send)
sys.addaudithook(end)
from llava_dvc.cli import main
main()
"""
UNPACKING, OLD_ASIDE, NEW_IN_PLACE = ("open", 1), ("os.rename", 1), ("os.rename", 2)


@pytest.fixture
def archive(source, tmp_path):
    copys_labels(source)
    return zipped(source, tmp_path / "mall.zip")


@pytest.fixture
def repo(tmp_path, monkeypatch):
    """A repository whose data/ has one frame with the label 9."""
    repo = tmp_path / "repo"
    (repo / "data" / "frames").mkdir(parents=True)
    (repo / "data" / "labels.csv").write_text("id,count\n1,9\n")
    (repo / ".gitignore").write_text((ROOT / ".gitignore").read_text())
    subprocess.run(["git", "init", "-q"], cwd=repo, check=True)
    monkeypatch.chdir(repo)
    return repo


def ended_import(archive: Path, moment: tuple[str, int], number: int):
    """`llava-dvc import-mall`, which gets the signal `number` at that moment."""
    command = [sys.executable, "-c", SIGNAL_AT, *map(str, moment), str(number)]
    return subprocess.run(
        [*command, "import-mall", archive], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("moment", [UNPACKING, OLD_ASIDE, NEW_IN_PLACE])
def test_ctrl_c_leaves_the_old_data(repo, archive, moment):
    done = ended_import(archive, moment, signal.SIGINT)
    assert done.stderr == "error: interrupted; run the command again\n"
    assert [label.count for label in read_labels(repo / "data" / "labels.csv")] == [9]
    assert not list(repo.glob(".import-mall-*"))


@pytest.mark.parametrize("moment", [UNPACKING, NEW_IN_PLACE])
def test_what_a_killed_import_leaves_is_not_in_git_and_goes_with_the_next(repo, archive, moment):
    assert ended_import(archive, moment, signal.SIGKILL).returncode == -signal.SIGKILL
    assert list(repo.glob(".import-mall-*"))
    subprocess.run(["git", "add", "-A"], cwd=repo, check=True)
    staged = subprocess.run(["git", "ls-files"], cwd=repo, capture_output=True, check=True)
    assert staged.stdout == b".gitignore\n"
    with pytest.raises(UserError, match=r"nothing: no such folder"):
        mall.import_mall(Path("nothing"), Path("data"))
    assert [label.count for label in read_labels(repo / "data" / "labels.csv")] == [9]
    assert not list(repo.glob(".import-mall-*"))


def test_two_imports_at_once_are_refused(repo, archive):
    with (
        import_folder(Path("data")) as folder,
        pytest.raises(UserError, match=r"^data: another import is running\. Wait until it ends"),
    ):
        mall.import_mall(archive, Path("data"))
    assert not folder.exists()


def test_ctrl_c_during_dvc_add_keeps_the_old_record(repo, monkeypatch):
    (repo / "data.dvc").write_text("outs:\n- path: data\n")
    code = """
import signal, sys
def interrupt(event, arguments):
    if event == "subprocess.Popen":
        signal.raise_signal(signal.SIGINT)
from pathlib import Path
from llava_dvc.data.imports import mall
sys.addaudithook(interrupt)
mall.dvc_add(Path("data"))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert b"KeyboardInterrupt" in done.stderr
    assert (repo / "data.dvc").read_text() == "outs:\n- path: data\n"
