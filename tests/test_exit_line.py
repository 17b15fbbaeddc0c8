"""Every end of a command is one line: an error, Ctrl-C, a full disk, an output that is gone."""

import errno
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from llava_dvc.errors import UserError
from llava_dvc.exit_line import error_line, exit_with_one_line

COMMANDS = {
    "preset tiny": "yaml",
    "doctor": "torch",
    "frames a.mp4": "av",
    "import frames": "scipy",
    "import-mall frames": "scipy",
    "predict frames": "peft",
    "push": "huggingface_hub",
    "runs": "llava_dvc.tracking.run",
    "serve --port 0": "uvicorn",
    "vllm frames": "safetensors",
}
"""Each command with a module that it imports."""
CTRL_C = """
import signal, sys
module = sys.argv.pop(1)
def interrupt(event, arguments):
    if event == "import" and arguments[0] == module:
        signal.raise_signal(signal.SIGINT)
sys.addaudithook(interrupt)
"""
RUN = "from llava_dvc.cli import main; main()"


def end_with(error: BaseException) -> str:
    with pytest.raises(SystemExit) as end, exit_with_one_line("the command"):
        raise error
    return str(end.value.code)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a frame and a preset, which is the working folder and that of temporary
    files.
    """
    for name in ("frames/1.jpg", "presets/tiny.yaml"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("command", COMMANDS)
def test_ctrl_c_is_one_line(folder, command):
    code = [sys.executable, "-c", CTRL_C + RUN, COMMANDS[command]]
    done = subprocess.run([*code, *command.split()], capture_output=True, text=True, check=False)
    assert done.stderr == "error: interrupted; run the command again\n"
    assert done.returncode == 130


def test_ctrl_c_while_a_stage_imports_is_one_line(folder):
    code = [sys.executable, "-c", CTRL_C + "import stages.train", "torch"]
    done = subprocess.run(code, capture_output=True, text=True, check=False)
    assert done.stderr == "error: interrupted; run `dvc repro` again\n"


def test_an_unexpected_error_names_the_file_with_its_traceback(folder):
    line = end_with(KeyError("data"))
    head, _, path = line.rpartition(", ")
    text = "error: KeyError: 'data'; this is a fault of llava-dvc: report it with its traceback"
    assert head == text
    assert Path(path).parent == folder
    assert 'raise error\nKeyError: "data"' in Path(path).read_text().replace("'", '"')
    assert Path(path).stat().st_mode & 0o077 == 0


def test_a_panic_in_rust_is_one_line(folder):
    """It is neither an Exception nor a UserError."""
    panic = type("PanicException", (BaseException,), {})
    assert end_with(panic("index out of\nbounds")).startswith(
        "error: PanicException: index out of bounds; this is a fault of llava-dvc"
    )


def test_an_error_of_the_system_names_the_file(folder):
    with pytest.raises(IsADirectoryError) as found:
        Path("frames").read_text()
    line = end_with(found.value)
    assert line.startswith(
        "error: frames: Is a directory; correct this and run the command again (traceback: "
    )


def test_an_error_without_a_folder_for_its_traceback_is_one_line(folder, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", "no folder")
    assert end_with(KeyError("data")).endswith(
        "report it with its traceback, which could not be written (No such file or directory)"
    )


def test_a_working_folder_that_is_gone_is_one_line(folder):
    (folder / "gone").mkdir()
    os.chdir("gone")
    os.rmdir(folder / "gone")
    assert "\n" not in end_with(KeyError("data"))


def wrapped(error):
    try:
        raise RuntimeError("cannot write") from error
    except RuntimeError as outer:
        return outer


@pytest.mark.parametrize("wrap", [lambda error: error, wrapped])
def test_a_full_disk_names_the_folder(folder, wrap):
    full = OSError(errno.ENOSPC, "No space left on device", str(folder / "frames" / "1.jpg"))
    line = f"error: {folder}: the disk is full; free some space and run the command again"
    assert end_with(wrap(full)) == line


def test_the_lines_of_a_user_error_are_shown_as_they_are():
    assert end_with(UserError("first\nsecond")) == "error: first\nsecond"
    assert error_line(UserError("first"), "the command") == "first"


@pytest.mark.parametrize("arguments", [["preset", "tiny"], ["preset", "none"]])
def test_an_output_that_cannot_be_written_is_one_line(folder, arguments):
    Path("presets/tiny.yaml").write_bytes(
        Path(__file__).parents[1].joinpath("presets/tiny.yaml").read_bytes()
    )
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-c", RUN, *arguments],
            stdout=full, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    lines = {
        "tiny": "error: standard output, or a file that the command writes: the disk is full; free "
        "some space and run the command again\n",
        "none": "error: presets/none.yaml: no such preset. Choose one of: tiny\n",
    }
    assert (done.returncode, done.stderr) == (1, lines[arguments[-1]])


def test_a_closed_output_is_one_line(folder):
    done = subprocess.run(
        ["sh", "-c", f'exec "$0" -c "{RUN}" preset tiny >&-', sys.executable],
        stderr=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    assert done.stderr == ("error: standard output: is closed; open it, or send it to /dev/null\n")
