"""Checkpoints that a killed training resumes from: whole, and of the same training."""

import hashlib
import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from accelerate import PartialState
from filelock import FileLock, Timeout
from transformers import TrainerCallback

from llava_dvc import config
from llava_dvc.config import UserError
from llava_dvc.outs import files_in, sha256, state_root

MANIFEST = "manifest.json"


class SealCheckpoint(TrainerCallback):
    """Writes a manifest last: nothing else tells a whole Trainer checkpoint from half of one."""

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        PartialState().wait_for_everyone()  # every process has its random state in there
        if not state.is_world_process_zero:
            return
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        sizes = {str(file.relative_to(folder)): file.stat().st_size for file in files_in(folder)}
        partial = folder / f".{MANIFEST}"
        partial.write_text(
            json.dumps({"sizes": sizes, "sha256": sha256(*map(folder.joinpath, sizes))})
        )
        partial.rename(folder / MANIFEST)


def last_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint whose files are all as its manifest says; broken ones are deleted."""
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    for checkpoint in reversed(found):
        if _is_whole(checkpoint):
            return str(checkpoint)
        sys.stderr.write(f"{checkpoint}: not whole, deleted\n")
        shutil.rmtree(checkpoint)
    return None


def _is_whole(checkpoint: Path) -> bool:
    try:
        manifest = json.loads((checkpoint / MANIFEST).read_text())
        return bool(sha256(*map(checkpoint.joinpath, manifest["sizes"])) == manifest["sha256"])
    except (OSError, ValueError, KeyError):
        return False


def run_key(prepared: Path, cfg: config.Config) -> str:
    """Digest of everything that decides the adapter: data, backbone, settings, our code, package
    versions.
    """
    code = [
        Path(str(module.__file__))
        for name, module in sorted(sys.modules.items())
        if name.startswith("llava_dvc.") and name.split(".")[1] not in {"config", "tracking", "cli"}
    ]
    backbone = Path(cfg.backbone.name)
    inputs = sha256(prepared, *code, *([backbone] if backbone.is_dir() else []))
    packages = {
        name: version(name) for name in ("torch", "transformers", "trl", "peft", "bitsandbytes")
    }
    settings = cfg.model_dump(include={"seed", "image", "backbone", "adapter", "train"})
    settings["train"].pop("workers")
    text = json.dumps([inputs, packages, settings], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def checkpoints_of(key: str) -> Path:
    return state_root() / "checkpoints" / key[:16]


@contextmanager
def checkpoint_folder(key: str) -> Iterator[Path]:
    """A folder that is this training's alone while it runs, kept when it is killed and removed when
    it succeeds.

    The lock is held for the life of the training: a killed `dvc` leaves its stage running, and the
    next `dvc repro` would start a second one beside it.
    """
    folder = checkpoints_of(key)
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.with_suffix(".lock"), timeout=0)
    try:
        with lock:
            yield folder
            shutil.rmtree(folder)
    except Timeout:
        raise UserError(
            f"{folder}: another training of the same settings is running; wait for it or stop it"
        ) from None
