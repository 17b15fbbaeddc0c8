"""Copies of the checkpoints in another place, from which a fresh machine resumes.

`train.checkpoint_to` names the place. fsspec knows addresses such as `s3://bucket/folder`, if the
package for them is installed, and folders such as `/mnt/share`.
"""

import os
import shutil
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem
from transformers import TrainerCallback

from llava_dvc import errors
from llava_dvc.training.checkpoints import MANIFEST, is_complete, last_checkpoint, seal

KEPT = 2
"""Copies: the newest, and the one before it in case the newest is damaged."""


class CopyCheckpoints(TrainerCallback):
    """Copies each sealed checkpoint in the background, with the validations up to it.

    A copy is complete once its manifest is there, which is sent last. If a copy fails, a line says
    so and the training goes on. A checkpoint whose copy has not begun when the next is sealed is
    not copied.
    """

    def __init__(self, place: str, key: str, folder: Path) -> None:
        """`key` is the training's `run_key`, `folder` its checkpoint folder. Raises UserError if
        nothing can be written to `place`.
        """
        self.place, self.key, self.folder = place, key[:16], folder
        self.fetched = folder / "fetched"
        self._staged: tuple[Path, Future[None]] | None = None
        self._worker = ThreadPoolExecutor(1, "checkpoint-copies")
        try:
            self.system, root = fsspec.url_to_fs(place)
            self.root = f"{root.rstrip('/')}/{self.key}"
            if isinstance(self.system, LocalFileSystem):  # others need no folder
                self.system.makedirs(self.root, exist_ok=True)
            self.system.pipe_file(f"{self.root}/writable", b"")
        except Exception as error:  # each of fsspec's file systems raises errors of its own
            raise errors.no_checkpoint_copies(place, error) from None

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if not state.is_world_process_zero:
            return
        if self._staged and self._staged[1].cancel():
            shutil.rmtree(self._staged[0])
        staged = self._stage(f"checkpoint-{state.global_step}")
        self._staged = staged, self._worker.submit(self._send, staged)

    def restore(self) -> None:
        """Fetches the newest complete copy, if it is newer than the checkpoints in the folder.
        Raises UserError if the place does not answer.
        """
        local = last_checkpoint(self.folder)
        begin = int(local.rsplit("-", 1)[1]) if local else 0
        try:
            newer = [step for step in self._steps() if step > begin]
            if any(self._fetch(step) for step in reversed(newer)):
                self._take()
        except Exception as error:  # as above
            raise errors.copy_not_fetched(self.place, error) from None

    def close(self) -> None:
        """Waits for the copy that is under way."""
        self._worker.shutdown()

    def remove(self) -> None:
        """Deletes all copies of this training."""
        try:
            self.system.rm(self.root, recursive=True)
        except Exception as error:  # as above
            sys.stderr.write(errors.copies_not_deleted(f"{self.place}/{self.key}", error))

    def _stage(self, name: str) -> Path:
        """A folder of links to the files to copy: the Trainer deletes old checkpoints."""
        staged = self.folder / "outgoing" / name.rsplit("-", 1)[1]
        shutil.rmtree(staged, ignore_errors=True)
        for part in (name, "validation"):
            if (self.folder / part).is_dir():
                shutil.copytree(self.folder / part, staged / part, copy_function=_link)
        return staged

    def _send(self, staged: Path) -> None:
        target = f"{self.root}/{staged.name}"
        try:
            seal(staged)
            for part in [path for path in staged.iterdir() if path.is_dir()]:
                self.system.put(f"{part}/", f"{target}/{part.name}/", recursive=True)
            self.system.put(str(staged / MANIFEST), f"{target}/{MANIFEST}")
            for step in self._steps()[:-KEPT]:
                self.system.rm(f"{self.root}/{step}", recursive=True)
        except Exception as error:  # as above
            sys.stderr.write(errors.checkpoint_not_copied(staged.name, self.place, error))
        shutil.rmtree(staged)

    def _steps(self) -> list[int]:
        self.system.invalidate_cache(self.root)
        names = (name.rstrip("/").rsplit("/", 1)[1] for name in self.system.ls(self.root, False))
        return sorted(int(name) for name in names if name.isdigit())

    def _fetch(self, step: int) -> bool:
        """Whether the copy of `step` is complete."""
        shutil.rmtree(self.fetched, ignore_errors=True)
        self.system.get(f"{self.root}/{step}/", f"{self.fetched}/", recursive=True)
        complete = is_complete(self.fetched)
        said = errors.checkpoint_fetched if complete else errors.copy_not_complete
        sys.stderr.write(said(step, self.place))
        return complete

    def _take(self) -> None:
        """Moves the fetched files into the folder, the checkpoint last."""
        shutil.rmtree(self.folder / "validation", ignore_errors=True)
        for part in sorted(filter(Path.is_dir, self.fetched.iterdir()), reverse=True):
            part.rename(self.folder / part.name)
        shutil.rmtree(self.fetched)


@contextmanager
def checkpoint_copies(place: str | None, key: str, folder: Path) -> Iterator[list[TrainerCallback]]:
    """Fetches a newer checkpoint from `place`, and yields the callback that copies there.

    Deletes the copies on success, and keeps them otherwise. Does nothing if `place` is None.
    """
    if place is None:
        yield []
        return
    copies = CopyCheckpoints(place, key, folder)
    copies.restore()
    try:
        yield [copies]
    finally:
        copies.close()
    copies.remove()


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without links
        shutil.copy2(source, target)
