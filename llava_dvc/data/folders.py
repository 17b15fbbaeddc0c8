"""The files in `data/frames`, and the links that lead out of `data/`."""

import os
import re
import unicodedata
from collections.abc import Collection, Iterator
from pathlib import Path

from llava_dvc.data.data_errors import DataProblem, printable_name
from llava_dvc.data.images import MAX_BYTES
from llava_dvc.data.labels import natural_key
from llava_dvc.errors import UserError
from llava_dvc.files import file_digest

UNLABELLED = "unlabelled"
"""The kind of the problem of a file without a label."""


class FrameFiles:
    """The files in `data/frames`, without hidden files such as .DS_Store."""

    def __init__(self, data: Path) -> None:
        self.data, self.folder = data, data / "frames"
        prefix = len(str(self.folder)) + 1
        entries = {entry.path[prefix:]: entry for entry in _walk_entries(self.folder)}
        self.regular = {n for n, e in entries.items() if e.is_file(follow_symlinks=False)}
        """Neither links nor in linked folders: they cannot lead out of `data`."""
        folders = {n for n in entries.keys() - self.regular if entries[n].is_dir()}
        self.outside_folders = [n for n in sorted(folders) if not is_inside(self.folder / n, data)]
        self.names = entries.keys() - folders

    def name_hint(self, name: str) -> str:
        """A sentence about a link of this name that leads nowhere, or about a file whose name
        differs from `name` only in case or accents; else "".
        """
        if (self.folder / name).is_symlink():
            target = printable_name(str((self.folder / name).readlink()))
            return f" It is a link to {target}, which is missing."
        similar = [file for file in self.names if normalized_name(file) == normalized_name(name)]
        if not similar:
            return ""
        return f" There is {printable_name(min(similar))}: write that name, or rename the file."

    def unlabelled_problems(self, known: Collection[str]) -> list[DataProblem]:
        """A problem for each file that is not in `known`, and for each link out of `data`."""
        labels = self.data / "labels.csv"
        problems = [
            DataProblem(
                UNLABELLED,
                str(self.folder / printable_name(name)),
                f"has no label in {labels}. Add a line there, delete the file, or list "
                f"{printable_name(name)} under data.exclude in params.yaml. To leave out all such "
                "frames, set data.unlabelled to allow.",
                name,
            )
            for name in sorted(self.names - set(known), key=natural_key)
        ]
        links = [link_problem(self.folder / n, self.data, n) for n in self.outside_folders]
        return problems + links


def _walk_entries(folder: str | Path) -> Iterator[os.DirEntry[str]]:
    """Everything below `folder` except folders; links are not followed."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from _walk_entries(entry.path)
            else:
                yield entry


def link_problem(path: Path, data: Path, name: str | None = None) -> DataProblem:
    """The problem of a path that is not `is_inside`; `name` is its frame, if it has one."""
    text = (
        f"is a link to {printable_name(str(path.resolve()))}, which is outside {data}. Replace the "
        "link by the file itself."
    )
    return DataProblem("link", printable_name(str(path)), text, name, skippable=name is not None)


def require_own_file(path: Path, folder: Path) -> None:
    """Raises UserError for a link out of `folder`, a file of more than MAX_BYTES, and for what is
    no regular file.
    """
    if not is_inside(path, folder):
        raise UserError(str(link_problem(path, folder)))
    if not path.is_file():
        raise UserError(
            f"{printable_name(str(path))}: is not a regular file. Replace it by the file itself."
        )
    if (size := path.stat().st_size) > MAX_BYTES:
        raise UserError(
            f"{printable_name(str(path))}: has {size:,} bytes, more than {MAX_BYTES:,}. Make it "
            "smaller, or remove it."
        )


def is_inside(path: Path, data: Path) -> bool:
    """True if `path`, with its links followed, lies in `data` or in DVC's cache."""
    target = path.resolve()
    return target.is_relative_to(data.resolve()) or _is_in_dvc_cache(target)


def _is_in_dvc_cache(target: Path) -> bool:
    """True for a file that is named by the MD5 of its bytes, as the files in DVC's cache are.

    With `cache.type symlink` DVC replaces the frames by links to its cache.
    """
    match = re.search(r"/files/md5/([0-9a-f]{2})/([0-9a-f]{30})$", target.as_posix())
    if not match or not target.is_file():
        return False
    return file_digest(target, "md5") == match[1] + match[2]


def normalized_name(name: str) -> str:
    """Equal for two names that many file systems take for one (case, form of accents)."""
    return unicodedata.normalize("NFC", name).casefold()
