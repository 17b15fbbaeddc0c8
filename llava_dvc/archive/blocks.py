"""The files of an archive, in blocks: the pieces of work that are done or not done."""

import hashlib
import re
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from itertools import groupby
from pathlib import PurePosixPath

import fsspec
from fsspec.implementations.local import LocalFileSystem

from llava_dvc.data.images import is_picture_name
from llava_dvc.data.labels import natural_key
from llava_dvc.errors import UserError, one_line
from llava_dvc.serving.video.file_kind import MOTION_JPEG_SUFFIXES, VIDEO_SUFFIXES

TIME = re.compile(
    r"(?<!\d)((?:19|20)\d\d)[-_]?(\d\d)[-_]?(\d\d)"
    r"(?:[T_ -]?(\d\d)(\d\d)(\d\d)|[T_ /-](\d\d)[-_:.](\d\d)[-_:.](\d\d))?(?!\d)"
)
"""A date, and the time of day after it if that is there: `2026-11-26/08-30-00`, `20261126T083000`.
Six digits in a folder of that day can be any number.
"""


@dataclass(frozen=True, slots=True)  # there are millions
class ArchiveFile:
    """A picture or a video, by its name."""

    path: str
    """An absolute path, or an address such as `s3://bucket/hall/1.jpg`."""
    camera: str
    """The first folder below the source. The source's own name if there is none."""
    day: date | None
    """As the path says. For a video its own clock says more."""
    time: datetime | None
    """The same, without a time zone."""

    @property
    def is_video(self) -> bool:
        return not is_picture_name(self.path)


@dataclass(frozen=True)
class Block:
    """Pictures of one camera and day, or one video."""

    files: tuple[ArchiveFile, ...]

    @property
    def key(self) -> str:
        """The same for the same files, in every run and on every machine."""
        names = "\0".join(file.path for file in self.files)
        return hashlib.sha256(names.encode()).hexdigest()[:24]


def list_files(sources: Sequence[str]) -> list[ArchiveFile]:
    """Returns the pictures and videos of all `sources`, each once, in natural order.

    A source is a file, a folder, a glob, or an address that fsspec knows, for one of these. Raises
    UserError when one has no picture and no video. Prints how many files are neither.
    """
    files: dict[str, ArchiveFile] = {}
    for source in sources:
        names, root = _find(source)
        found = sorted(filter(_is_counted, names), key=natural_key)
        if not found:
            raise UserError(
                f"{source}: contains no picture and no video. Correct the path."
                if names
                else f"{source}: not found. Correct the path."
            )
        if others := len(names) - len(found):
            sys.stderr.write(f"note: {source}: {others} other files are not counted.\n")
        files |= {name: archive_file(name, root) for name in found}
    return list(files.values())


def cut_blocks(
    files: Iterable[ArchiveFile], size: int, done: Collection[str] = ()
) -> Iterator[Block]:
    """Yields blocks of at most `size` pictures, without the files whose paths are `done`."""
    left = [file for file in files if file.path not in done]
    for video, group in groupby(left, lambda file: (file.camera, file.day, file.is_video)):
        same = list(group)
        step = 1 if video[2] else size
        yield from (Block(tuple(same[at : at + step])) for at in range(0, len(same), step))


def archive_file(path: str, root: str) -> ArchiveFile:
    """The file at `path`, with what its names below the folder `root` say."""
    parts = PurePosixPath(path.removeprefix(root).lstrip("/")).parts
    camera = parts[0] if len(parts) > 1 else PurePosixPath(root).name
    day, time = None, None
    for found in TIME.finditer("/".join(parts)):
        try:
            digits = "".join(text for text in found.groups() if text)
            day = date.fromisoformat(digits[:8])
            time = datetime.fromisoformat(f"{digits[:8]}T{digits[8:]}") if digits[8:] else None
        except ValueError:  # digits that are no date, or no time of day
            continue
    return ArchiveFile(path, camera or "unknown", day, time)


def _find(source: str) -> tuple[list[str], str]:
    """Returns all files of a source, and the folder that they lie in."""
    try:
        system, path = fsspec.url_to_fs(source)
        pattern = any(sign in path for sign in "*?[") and not system.exists(path)
        names = system.glob(path) if pattern else system.find(path)
        found = [name for one in names for name in (system.find(one) if pattern else [one])]
    except Exception as error:  # each of fsspec's file systems raises errors of its own
        reason = one_line(str(error) or repr(error))
        raise UserError(
            f"{source}: cannot be listed ({reason}). Correct the address, or install fsspec's "
            "package for it."
        ) from None
    fixed = re.split(r"[*?\[]", path)[0] if pattern else path
    root = fixed if found != [path] and not pattern else fixed.rpartition("/")[0]
    if isinstance(system, LocalFileSystem):
        return found, root
    return [system.unstrip_protocol(name) for name in found], system.unstrip_protocol(root)


def _is_counted(name: str) -> bool:
    suffix = PurePosixPath(name).suffix.lower()
    return is_picture_name(name) or suffix in VIDEO_SUFFIXES | MOTION_JPEG_SUFFIXES
