"""An input that is edited while a stage runs: one line, and nothing moves into its place."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from llava_dvc.config import Config
from llava_dvc.files import new_folder, write_json
from llava_dvc.stage_runner import run_stage
from tests.conftest import ROOT

PIPELINE = """
vars: [path: {data: data, made: made, metrics: metrics/made.json}]
stages:
  make:
    cmd: python -m stages.make
    deps: ["${path.data}", code, script.py]
    params: [seed, train]
    outs: ["${path.made}"]
    metrics: ["${path.metrics}": {cache: false}]
"""
LABELS = Path("data/labels.csv")


@pytest.fixture
def repo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository in which DVC runs the stage `make`; the current folder."""
    (tmp_path / "dvc.yaml").write_text(PIPELINE)
    shutil.copy(ROOT / "presets" / "tiny.yaml", tmp_path / "params.yaml")
    for name in ("data/frames/a.jpg", "data/labels.csv", "code/part/one.py", "script.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1,2\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setenv("DVC_STAGE", "make")
    monkeypatch.setattr(sys, "argv", ["make", "made", "metrics/made.json"])
    return tmp_path


def run(edit: Callable[[], object], late: Callable[[], object] = lambda: None) -> str | None:
    """Runs a stage that calls `edit` before its results move into place, `late` after that.

    Returns the message that it ends with, None if it succeeds.
    """

    def main(cfg: Config, made: Path, metrics: Path) -> None:
        with new_folder(made) as folder:
            write_json(folder / "inside.json", cfg.seed)
            edit()
        write_json(metrics, 1)
        late()

    try:
        run_stage(main)
    except SystemExit as end:
        return str(end.code)
    return None


def replace(path: Path, old: str, new: str) -> None:
    path.write_text(path.read_text().replace(old, new))


def set_param(old: str, new: str) -> None:
    replace(Path("params.yaml"), old, new)


EDITS: dict[str, tuple[Callable[[], object], str]] = {
    "label": (lambda: replace(LABELS, "2", "3"), "data/labels.csv has changed"),
    "new frame": (lambda: Path("data/frames/b.jpg").touch(), "data/frames/b.jpg is new"),
    "frame gone": (lambda: Path("data/frames/a.jpg").unlink(), "data/frames/a.jpg is gone"),
    "code": (lambda: replace(Path("code/part/one.py"), "1", "4"), "code/part/one.py has changed"),
    "script": (lambda: replace(Path("script.py"), "1", "4"), "script.py has changed"),
    "rate": (
        lambda: set_param("learning_rate: 5.0e-4", "learning_rate: 1.0e-3"),
        "params.yaml: train.learning_rate has changed from 0.0005 to 0.001",
    ),
    "seed": (lambda: set_param("seed: 17", "seed: 18"), "params.yaml: seed has changed from 17"),
    "all data": (
        lambda: shutil.rmtree("data"),
        "data/frames/a.jpg is gone, data/labels.csv is gone since make",
    ),
    "line break in a name": (lambda: Path("data/a\nb").touch(), "data/a b is new"),
}


@pytest.mark.parametrize("name", EDITS)
@pytest.mark.parametrize("is_late", [False, True], ids=["before", "after the move"])
def test_an_edited_input_is_named_and_nothing_is_recorded(repo, name, is_late):
    edit, said = EDITS[name]
    message = run(lambda: None, edit) if is_late else run(edit)
    assert message
    assert message.startswith("error: ")
    assert said in message
    assert message.endswith("since make started. DVC records no result. Run `dvc repro` again.")
    assert "\n" not in message
    assert (repo / "made").exists() == is_late
    assert (repo / "metrics" / "made.json").exists() == is_late
    assert not list(repo.rglob("*.partial"))
    assert run(lambda: None) is None  # again, with the edit from the start


def test_the_first_three_changes_are_named(repo):
    for number in range(7):
        (repo / "data" / "frames" / f"{number}.jpg").touch()
    message = run(lambda: [path.unlink() for path in Path("data/frames").glob("*.jpg")])
    assert message
    assert message.count(" is gone") == 3
    assert " and 5 more since make started" in message


def write_bytecode(repo: Path) -> None:
    cache = repo / "code" / "__pycache__"
    cache.mkdir()
    (cache / "one.cpython-311.pyc").touch()
    (repo / "code" / "two.pyc").touch()


def save_again(repo: Path) -> None:
    """As an editor or `git stash pop` does: the same bytes in another file."""
    new = repo / "new"
    shutil.copy(repo / "script.py", new)
    new.rename(repo / "script.py")


NO_EDITS: dict[str, Callable[[Path], object]] = {
    "other section": lambda repo: set_param("decode: median", "decode: mean"),
    "comment in params": lambda repo: set_param("seed: 17", "seed: 17 # mine"),
    "results of other stages": lambda repo: (repo / "metrics" / "other.json").write_text("1"),
    "checkpoint": lambda repo: (repo / "checkpoints").mkdir(),
    "bytecode": write_bytecode,
    "code saved again": save_again,
}


@pytest.mark.parametrize("name", NO_EDITS)
def test_what_dvc_does_not_record_may_change(repo, name):
    (repo / "metrics").mkdir()
    assert run(lambda: NO_EDITS[name](repo)) is None
    assert (repo / "made" / "inside.json").is_file()


def test_a_stage_that_fails_because_of_an_edit_says_so(repo):
    def edit() -> None:
        LABELS.unlink()
        LABELS.read_text()

    assert "data/labels.csv is gone since make started" in str(run(edit))


def test_another_error_stays_as_it_is(repo):
    message = run(lambda: 1 // 0)
    assert message
    assert message.startswith("error: ZeroDivisionError: ")


def test_outside_dvc_nothing_is_compared(repo, monkeypatch):
    monkeypatch.delenv("DVC_STAGE")
    assert run(lambda: LABELS.write_text("")) is None


def test_an_edit_during_a_stages_imports_is_seen(repo):
    """Code that Python has loaded already must not be noted as it is after the edit."""
    shutil.copytree(ROOT / "stages", repo / "stages")
    (repo / "stages" / "make.py").write_text(
        "import script\n"
        "from llava_dvc.stage_runner import run_stage\n"
        "if __name__ == '__main__':\n"
        "    run_stage(lambda cfg, *paths: None)\n"
    )
    (repo / "script.py").write_text("open(__file__, 'a').write('# edited')\n")
    done = subprocess.run(
        [sys.executable, "-m", "stages.make", "made", "metrics/made.json"], capture_output=True,
        text=True, check=False, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == (
        "error: script.py has changed since make started. DVC records no result. Run `dvc repro` "
        "again.\n"
    )
