import os
import shutil
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml
from filelock import FileLock
from transformers import TrainerCallback

from llava_dvc import recipe
from llava_dvc.config import Config, flatten
from llava_dvc.dataset import SUFFIX, write_splits
from llava_dvc.errors import UserError
from llava_dvc.training import checkpoints
from llava_dvc.training.checkpoints import (
    checkpoint_folder,
    checkpoints_of,
    last_checkpoint,
    run_key,
)
from tests.conftest import ROOT, conversation, frame
from tests.training.test_count_trainer import train, weights

TRAIN = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]["train"]


class SignalAfter(TrainerCallback):
    def __init__(self, step: int, number: int):
        self.step, self.number = step, number

    def on_step_begin(self, args, state, control, **_):
        if state.global_step == self.step:
            os.kill(os.getpid(), self.number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_obeyed_with_a_checkpoint(
    cfg, encoder, rows, tmp_path, number, capfd, monkeypatch
):
    monkeypatch.setattr(sys, "stdout", sys.stdout)  # closed by a stop
    before = signal.getsignal(number)
    whole = weights(train(cfg, encoder, rows, tmp_path / "whole"))
    with pytest.raises(SystemExit) as stopped:  # save_every is 2: nothing else saves at step 1
        train(cfg, encoder, rows, tmp_path / "stopped", [SignalAfter(0, number)])
    assert stopped.value.code == 128 + number
    assert "dvc repro" in capfd.readouterr().err
    assert last_checkpoint(tmp_path / "stopped").endswith("checkpoint-1")
    assert signal.getsignal(number) == before
    resumed = weights(train(cfg, encoder, rows, tmp_path / "stopped"))
    assert all((resumed[name] == tensor).all() for name, tensor in whole.items())


def test_a_second_ctrl_c_does_not_wait(cfg, encoder, rows, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    both = [SignalAfter(1, signal.SIGINT), SignalAfter(1, signal.SIGINT)]
    with pytest.raises(KeyboardInterrupt):
        train(cfg, encoder, rows, tmp_path, both)
    assert last_checkpoint(tmp_path) is None


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.chdir(ROOT)
    return tmp_path


def test_a_checkpoint_folder_is_one_trainings_alone(root, monkeypatch):
    monkeypatch.setattr(checkpoints, "PATIENCE", 0.1)
    with checkpoint_folder("key") as folder:
        assert folder == checkpoints_of("key")
        message = rf"running \(PID {os.getpid()}\).*stop it, then run `dvc repro`"
        with pytest.raises(UserError, match=message), checkpoint_folder("key"):
            pass
        with checkpoint_folder("another"):
            pass
    assert not folder.exists()


def test_a_training_that_is_stopping_is_waited_for(root, capfd):
    lock = FileLock(checkpoints_of("key").with_suffix(".lock"), thread_local=False)
    checkpoints_of("key").mkdir(parents=True)
    lock.acquire()
    threading.Timer(0.3, lock.release).start()
    with checkpoint_folder("key"):
        assert "waiting" in capfd.readouterr().err


def test_a_failed_training_keeps_its_checkpoints(root):
    with pytest.raises(ZeroDivisionError), checkpoint_folder("key") as folder:
        _ = 1 / 0
    assert folder.exists()


# What decides an adapter's bytes, besides data, backbone and code: another value of any of these
# starts anew, and nothing else does.
PACKAGES = {
    "accelerate", "bitsandbytes", "datasets", "numpy", "peft", "pillow", "tokenizers", "torch",
    "transformers", "trl",
}  # fmt: skip
SETTINGS = {"seed", "image", "backbone", "adapter", "train"}
HOW_ONLY = {"train.workers", "train.checkpoint_to"}


def other(value: Any) -> Any:
    match value:
        case bool():
            return not value
        case int() | float():
            return value + 1
        case _:
            return f"not {value}"


def changed(cfg: Config, name: str) -> Config:
    """`cfg` with another value for one setting, unchecked: what matters is that it is another."""
    section, _, key = name.partition(".")
    if not key:
        return cfg.model_copy(update={section: 18})
    part = getattr(cfg, section)
    other_part = part.model_copy(update={key: other(getattr(part, key))})
    return cfg.model_copy(update={section: other_part})


@pytest.fixture
def prepared(tmp_path):
    folder = tmp_path / "prepared"
    folder.mkdir()
    (folder / "report.json").write_text("{}")
    return folder


@pytest.mark.filterwarnings("ignore:Pydantic serializer")  # of values that are no settings
def test_these_settings_decide_the_result(cfg, prepared, root):
    key = run_key(prepared, cfg)
    assert run_key(prepared, cfg) == key
    decide = {n for n in flatten(cfg.model_dump()) if run_key(prepared, changed(cfg, n)) != key}
    asked = {n for n in flatten(cfg.model_dump()) if n.split(".")[0] in SETTINGS}
    assert decide == asked - HOW_ONLY
    assert set(TRAIN["params"]) == SETTINGS


def test_these_versions_decide_the_result(cfg, prepared, root, monkeypatch):
    key, present = run_key(prepared, cfg), recipe.versions()
    assert present.keys() == PACKAGES
    for name in present:
        monkeypatch.setattr(checkpoints, "versions", lambda n=name: present | {n: "0"})
        assert run_key(prepared, cfg) != key, name


def test_frames_decide_by_their_digests(cfg, tmp_path, root):
    """A frame that changes is another result, and none of them is read."""
    keys = []
    for number, size in enumerate((48, 48, 47)):
        folder = tmp_path / str(number) / "prepared"
        folder.mkdir(parents=True)
        content = {"path": "1", "bytes": frame(0, (64, size)).tobytes()}
        row = {"image": content, "frame": "1", "count": 1, "messages": conversation(1)}
        write_splits(folder, {"train": [row]})
        for file in folder.rglob(f"*{SUFFIX}"):
            file.write_bytes(b"never read")
        keys.append(run_key(folder, cfg))
    assert keys[0] == keys[1] != keys[2]


def test_data_backbone_and_code_decide_the_result(cfg, prepared, root, tmp_path, monkeypatch):
    backbone = tmp_path / "backbone"
    shutil.copytree(cfg.backbone.name, backbone)
    named = cfg.backbone.model_copy(update={"name": str(backbone)})
    cfg = cfg.model_copy(update={"backbone": named})
    key = run_key(prepared, cfg)
    (prepared / "report.json").write_text("{ }")
    seen = {key, run_key(prepared, cfg)}
    (backbone / "more").write_text("")
    seen.add(run_key(prepared, cfg))
    for name in ("stages", "llava_dvc"):
        shutil.copytree(ROOT / name, tmp_path / name)
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    assert run_key(prepared, cfg) in seen  # another folder is no other code
    for path in code():
        with path.open("a") as file:
            file.write("\n")
        seen.add(run_key(prepared, cfg))
    assert len(seen) == 3 + len(code())
    assert Path("llava_dvc/training/losses.py") in code()


def code() -> list[Path]:
    """Every source file that train's deps name, by itself or by its folder."""
    deps = [Path(dep) for dep in TRAIN["deps"] if dep.startswith(("stages/", "llava_dvc/"))]
    return [file for dep in deps for file in (dep.rglob("*.py") if dep.is_dir() else [dep])]


def test_compiled_code_does_not_decide_the_result(cfg, prepared, root, tmp_path, monkeypatch):
    for name in ("stages", "llava_dvc"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    key = run_key(prepared, cfg)
    compiled = tmp_path / "llava_dvc" / "training" / "__pycache__" / "losses.cpython-311.pyc"
    compiled.parent.mkdir()
    compiled.write_bytes(b"compiled")
    assert run_key(prepared, cfg) == key
