"""What lies in `data/frames`, and where links of `data/` lead."""

import hashlib
import os
import re
import unicodedata
from collections.abc import Collection, Iterator
from pathlib import Path

from llava_dvc.data.data_errors import Problem, plain
from llava_dvc.data.labels import natural_key


class Files:
    """The files in `data/frames`; hidden files (.DS_Store, .gitignore) are not frames."""

    def __init__(self, data: Path) -> None:
        self.data, self.folder = data, data / "frames"
        entries = {entry.path[len(str(self.folder)) + 1 :]: entry for entry in _walk(self.folder)}
        self.plain = {n for n, e in entries.items() if e.is_file(follow_symlinks=False)}
        """Neither links nor in linked folders: these need no look at where they lead."""
        folders = {n for n in entries.keys() - self.plain if entries[n].is_dir()}
        self.linked_out = [n for n in sorted(folders) if not inside(self.folder / n, data)]
        self.names = entries.keys() - folders

    def alike(self, name: str) -> str:
        """A hint at the file that was meant: its name may differ in case or in how accents are
        written.
        """
        found = [file for file in self.names if folded(file) == folded(name)]
        return f" {plain(found[0])} is there: write it exactly so, or rename it." if found else ""

    def unlabelled(self, known: Collection[str]) -> list[Problem]:
        lone = sorted(self.names - set(known), key=natural_key)
        labels = self.data / "labels.csv"
        problems = [
            Problem(
                "unlabelled",
                str(self.folder / plain(name)),
                f"has no label in {labels}. Add a line there, delete the file, or list "
                f"{plain(name)} under data.exclude in params.yaml.",
                name,
            )
            for name in lone
        ]
        return problems + [link(self.folder / name, self.data, name) for name in self.linked_out]


def _walk(folder: str | Path) -> Iterator[os.DirEntry[str]]:
    """Everything below `folder` but folders; links are not followed."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(entry.path)
            else:
                yield entry


def link(path: Path, data: Path, name: str | None = None) -> Problem:
    """The problem of a path that is not `inside`; `name` is its frame."""
    text = f"is a link to {plain(str(path.resolve()))}, outside {data}. Put the file itself there."
    return Problem("link", plain(str(path)), text, name, skippable=name is not None)


def inside(path: Path, data: Path) -> bool:
    """Whether a path leads to something in `data`, or in DVC's cache."""
    target = path.resolve()
    return target.is_relative_to(data.resolve()) or _is_dvcs(target)


def _is_dvcs(target: Path) -> bool:
    """With `cache.type symlink` DVC itself links the frames to its cache, where a file's name is
    the MD5 of its bytes: no other file can be called so.
    """
    found = re.search(r"/files/md5/([0-9a-f]{2})/([0-9a-f]{30})$", target.as_posix())
    if not found or not target.is_file():
        return False
    with target.open("rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False))
    return digest.hexdigest() == found[1] + found[2]


def folded(name: str) -> str:
    """The same for names that many disks take for one."""
    return unicodedata.normalize("NFC", name).casefold()
