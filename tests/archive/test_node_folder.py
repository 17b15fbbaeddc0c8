"""The folder of a job on a node: who holds it, and who removes it."""

import os
import signal
import subprocess
import sys
import tempfile

import pytest

from llava_dvc.archive.node_folder import hold_folder, remove_folder, remove_left_folders

HOLD = """
import time
from llava_dvc.archive.node_folder import hold_folder
print(hold_folder("killed"), flush=True)
time.sleep(600)
"""


@pytest.fixture
def temporary(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


def test_the_folder_of_a_killed_job_is_removed_when_its_last_process_is_gone(temporary):
    command = [sys.executable, "-c", HOLD]
    pipe = {"stdout": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command, **pipe) for _ in range(2)]
    (temporary / "llava-dvc-other.txt").touch()
    for process in processes:
        folder = process.stdout.readline().strip()
        remove_left_folders()
        assert os.listdir(folder) == []
    for process, left in zip(processes, (True, False), strict=True):
        process.send_signal(signal.SIGKILL)
        process.communicate()
        remove_left_folders()
        assert os.path.exists(folder) is left
    assert [path.name for path in temporary.iterdir()] == ["llava-dvc-other.txt"]


@pytest.mark.parametrize("opens_first", [True, False])
def test_a_folder_that_is_removed_while_it_is_taken_is_made_again(
    temporary, monkeypatch, opens_first
):
    opened = os.open

    def open_once(path, flags):
        """Another process removes the folder after or before this one has opened it."""
        monkeypatch.setattr(os, "open", opened)
        found = opened(path, flags) if opens_first else None
        remove_folder("job")
        return opened(path, flags) if found is None else found

    monkeypatch.setattr(os, "open", open_once)
    folder = hold_folder("job")
    assert os.open is opened
    remove_left_folders()
    assert folder.is_dir()
