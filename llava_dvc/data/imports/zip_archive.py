"""Unpacks the frames and labels of a zip, whatever program and system made it."""

import errno
import re
import shutil
import unicodedata
import zipfile
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path, PurePosixPath

from llava_dvc.data.images import is_picture_name
from llava_dvc.errors import UserError

MAX_UNPACKED = 4 << 30
"""Bytes that may be unpacked from a zip; the Mall data set has about 90 MB."""

LABEL_FILES = ("labels.csv", "mall_gt.mat", "messages.txt", "points.csv")

_SYSTEM_FILES = {"__MACOSX", "Thumbs.db", "desktop.ini"}
"""Written by macOS and Windows; hidden files such as ._a.jpg and .DS_Store are ignored too."""

_ENCODINGS = ("utf-8", "cp949", "cp437")
"""Of names without the UTF-8 flag: macOS writes UTF-8, Korean Windows CP949 (which holds EUC-KR).
CP437 is the zip format's own, and can decode everything."""

_MAX_LABELS = 64 << 20  # bytes of labels.csv that help to find the encoding


def unpack_zip(archive: Path, folder: Path, suffixes: Collection[str] = ()) -> Path:
    """Unpacks the frames and labels of a zip into `folder`, and returns that; raises UserError.

    Files with one of the `suffixes` are unpacked too.
    """
    if not archive.is_file():
        raise UserError(f"{archive}: no such folder or .zip file. Check the path.")
    try:
        with zipfile.ZipFile(archive) as file:
            for path, member in _select_members(archive, file, suffixes).items():
                target = folder / path
                target.parent.mkdir(parents=True, exist_ok=True)
                with file.open(member) as source, target.open("xb") as unpacked:
                    shutil.copyfileobj(source, unpacked)
    except UserError:
        raise
    except (RuntimeError, OSError) as error:  # a password, an unknown compression, a long name
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise OSError(error.errno, error.strerror, str(folder)) from None
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(
            f"{archive}: cannot be unpacked ({reason}). Unpack it yourself and import the folder."
        ) from None
    except Exception as error:  # zipfile raises many exceptions on broken bytes
        raise UserError(f"{archive}: cannot be unpacked ({error}). Download it again.") from None
    return folder


def is_system_file(path: PurePosixPath) -> bool:
    """True for what an operating system adds to a folder or a zip: it is never a frame."""
    return any(part.startswith(".") or part in _SYSTEM_FILES for part in path.parts)


def composed(name: str) -> str:
    """`name` with composed accents and syllables (NFC); macOS takes them apart."""
    return unicodedata.normalize("NFC", name)


def _select_members(
    archive: Path, file: zipfile.ZipFile, suffixes: Collection[str]
) -> dict[str, zipfile.ZipInfo]:
    """The members that may be frames or labels, by their path.

    Raises UserError on a path outside the folder, on two members of one name, and over
    MAX_UNPACKED.
    """
    selected: dict[str, zipfile.ZipInfo] = {}
    for path, member in _safe_members(archive, file):
        is_frame = "frames" in path.parts[:-1] or is_picture_name(path)
        is_label = path.name in LABEL_FILES or path.suffix.lower() in suffixes
        if not is_frame and not is_label:
            continue
        if str(path) in selected:
            raise UserError(
                f"{archive}: has two members named {str(path)!r}. Delete one of them, or unpack "
                "it yourself and import the folder."
            )
        selected[str(path)] = member
    size = sum(member.file_size for member in selected.values())
    if size > MAX_UNPACKED:
        raise UserError(
            f"{archive}: unpacks to {size:,} bytes, more than {MAX_UNPACKED:,}. Unpack it yourself "
            "and import the folder."
        )
    return selected


def _safe_members(
    archive: Path, file: zipfile.ZipFile
) -> Iterator[tuple[PurePosixPath, zipfile.ZipInfo]]:
    """Files with their paths, without system files; raises UserError on a path outside."""
    members = file.infolist()
    for name, member in zip(_decode_names(file, members), members, strict=True):
        slashes = composed(name).replace("\\", "/")  # Windows PowerShell writes backslashes
        path = PurePosixPath(slashes)
        if path.is_absolute() or ".." in path.parts or re.match("[A-Za-z]:", name):
            raise UserError(
                f"{archive}: member {name!r} would be unpacked outside the folder. Do not use this "
                "file."
            )
        if not slashes.endswith("/") and not is_system_file(path):
            yield path, member


def _decode_names(file: zipfile.ZipFile, members: Sequence[zipfile.ZipInfo]) -> list[str]:
    """The members' names. Those without the UTF-8 flag have no known encoding.

    The encoding that decodes all of them is taken, and of several the one whose names are in
    labels.csv.
    """
    unknown = {
        member.filename: member.filename.encode("cp437")
        for member in members
        if not member.flag_bits & 0x800 and not member.filename.isascii()
    }
    if not unknown:
        return [member.filename for member in members]
    labels = _label_text(file, members)
    best: dict[str, str] = {}
    most = -1
    for encoding in _ENCODINGS:
        try:
            names = {name: raw.decode(encoding) for name, raw in unknown.items()}
        except UnicodeDecodeError:
            continue
        labelled = sum(_is_labelled(name, labels) for name in list(names.values())[:100])
        if labelled > most:
            best, most = names, labelled
    return [best.get(member.filename, member.filename) for member in members]


def _label_text(file: zipfile.ZipFile, members: Sequence[zipfile.ZipInfo]) -> str:
    text = b""
    for member in members:
        if re.split(r"[/\\]", member.filename)[-1] == "labels.csv":
            with file.open(member) as labels:
                text += labels.read(_MAX_LABELS)
    return composed(text.decode("utf-8", "replace"))


def _is_labelled(name: str, labels: str) -> bool:
    """Whether a part of the path `name` that is not ASCII is in the text of labels.csv."""
    parts = re.split(r"[/\\]", composed(name))
    return any(not part.isascii() and part in labels for part in parts)
