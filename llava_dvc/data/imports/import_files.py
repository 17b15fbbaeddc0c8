"""The files of an import: pictures, found by the names in annotation files; safe JSON and XML."""

import json
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from llava_dvc.data.data_errors import printable_name, quoted
from llava_dvc.data.images import MAX_BYTES, is_picture_name
from llava_dvc.data.imports.annotations import AnnotationError, Reading, Record
from llava_dvc.data.imports.zip_archive import composed, is_system_file
from llava_dvc.errors import UserError

MAX_ANNOTATION_BYTES = 512 * 2**20
"""Of a JSON or XML file. That of COCO's 118,000 training images has 448 MB."""

_UPLOADED = re.compile(r"[0-9a-f]{8}-")
"""Label Studio puts this before the name of an uploaded file."""


class PictureIndex:
    """The pictures of an import, found by the path or the name in an annotation file."""

    def __init__(self, root: Path, paths: Sequence[Path]) -> None:
        self.root, self.paths = root, paths
        self._by_name: dict[str, list[Path]] = defaultdict(list)
        self._by_stem: dict[str, list[Path]] = defaultdict(list)
        for path in paths:
            self._by_name[composed(path.name)].append(path)
            self._by_stem[composed(path.stem)].append(path)

    def find(self, name: str) -> Path:
        """The picture whose path ends most like `name`; raises AnnotationError."""
        parts = PurePosixPath(composed(name).replace("\\", "/")).parts
        base = parts[-1] if parts else ""
        has_suffix = is_picture_name(base)
        known = self._by_name if has_suffix else self._by_stem
        candidates = known.get(base) or known.get(_UPLOADED.sub("", base, count=1))
        if not candidates:
            raise AnnotationError(
                f"picture {printable_name(name)} is not among the {len(self.paths)} pictures. Put "
                "it there, name its folder with --frames, or delete its annotation."
            )
        shared = [_shared_parts(path, parts) for path in candidates]
        best = [path for path, n in zip(candidates, shared, strict=True) if n == max(shared)]
        if len(best) > 1:
            raise AnnotationError(
                f"picture {printable_name(name)} is either {best[0]} or {best[1]}. Remove one, or "
                "write its folder into the annotation."
            )
        return best[0]


def _shared_parts(path: Path, parts: Sequence[str]) -> int:
    """How many folders above the file have the same name as in `parts`, from the last one."""
    folders = zip(reversed(path.parts[:-1]), reversed(parts[:-1]), strict=False)
    equal = [composed(ours) == theirs for ours, theirs in folders]
    return equal.index(False) if False in equal else len(equal)


@dataclass
class ImportFiles:
    """The annotation files and the pictures of an import."""

    root: Path
    files: list[Path]
    """All files that are not pictures."""
    pictures: PictureIndex
    messages_root: Path | None = None
    """Where a messages.txt may be: None if only one annotation file is given."""
    _parsed: dict[Path, Any] = field(default_factory=dict)

    def with_suffix(self, *suffixes: str) -> list[Path]:
        return [path for path in self.files if path.suffix.lower() in suffixes]

    def json(self, path: Path) -> Any:
        """The parsed file, read once; raises AnnotationError."""
        return self._read_once(path, _read_json_value)

    def xml(self, path: Path) -> Element:
        """The root element of the file, read once; raises AnnotationError."""
        element: Element = self._read_once(path, _read_xml_root)
        return element

    def xml_tag(self, path: Path) -> str | None:
        """The name of the root element; None if the file is not valid XML."""
        try:
            return self.xml(path).tag
        except AnnotationError:
            return None

    def add_unnamed_pictures(self, reading: Reading) -> None:
        """Adds a record without answer for each picture that no record is about."""
        named = set()
        for record in reading.records:
            with suppress(AnnotationError):  # reported when the record is resolved
                named.add(self.pictures.find(record.picture))
        for path in self.pictures.paths:
            if path not in named:
                reading.records.append(Record(str(path), str(path)))

    def _read_once(self, path: Path, read: Callable[[bytes], Any]) -> Any:
        if path not in self._parsed:
            try:
                if (size := path.stat().st_size) > MAX_ANNOTATION_BYTES:
                    raise AnnotationError(
                        f"has {size:,} bytes, more than {MAX_ANNOTATION_BYTES:,}. Split it."
                    )
                self._parsed[path] = read(path.read_bytes())
            except AnnotationError as error:
                self._parsed[path] = error
        if isinstance(self._parsed[path], AnnotationError):
            raise self._parsed[path]
        return self._parsed[path]


def list_import_files(
    root: Path, given: Path | None, frames: Path | None, data: Path
) -> ImportFiles:
    """The files below the folder `root`, and the pictures there or below `frames`.

    With `given`, that is the only annotation file. What an earlier import left in `data` is not
    taken, unless `root` or `frames` is there. Raises UserError.
    """
    if frames is not None and not frames.is_dir():
        raise UserError(f"--frames: {frames} is not a folder. Check the path.")
    inside = _files_below(root, data)
    pictures = inside if frames is None else _files_below(frames, data)
    return ImportFiles(
        root,
        [given] if given else [path for path in inside if not is_picture_name(path)],
        PictureIndex(frames or root, [path for path in pictures if is_picture_name(path)]),
        None if given else root,
    )


def _files_below(folder: Path, data: Path) -> list[Path]:
    top, old = folder.resolve(), data.resolve()
    inner = old.relative_to(top).parts if old.is_relative_to(top) else ()
    files = []
    for path in sorted(folder.rglob("*")):
        name = PurePosixPath(path.relative_to(folder))
        if inner and name.parts[: len(inner)] == inner:
            continue
        if not path.is_dir() and not is_system_file(name):
            files.append(path)
    return files


def read_small_text(path: Path) -> str:
    """The text of a file in UTF-8, with or without a byte order mark; raises AnnotationError."""
    if (size := path.stat().st_size) > MAX_BYTES:
        raise AnnotationError(f"has {size:,} bytes, more than {MAX_BYTES:,}. Split it.")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise AnnotationError("is not UTF-8. Save it as UTF-8.") from None


def _read_json_value(content: bytes) -> Any:
    try:
        return json.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise AnnotationError("is not UTF-8. Save it as UTF-8.") from None
    except RecursionError:
        raise AnnotationError("is nested too deeply. Export it again.") from None
    except ValueError as error:
        raise AnnotationError(f"is not valid JSON ({error}). Export it again.") from None


def _read_xml_root(content: bytes) -> Element:
    """The root element. A document type is refused: its entities can fill the memory."""
    builder, parser = TreeBuilder(), expat.ParserCreate()

    def refuse(*_: object) -> None:
        raise AnnotationError("has a document type, which annotations do not need. Delete it.")

    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    parser.buffer_text = True
    try:
        parser.Parse(content, True)
        return builder.close()
    except (expat.ExpatError, ValueError, LookupError, AssertionError) as error:
        if isinstance(error, AnnotationError):
            raise
        raise AnnotationError(f"is not valid XML ({error}). Export it again.") from None


def require_kind(value: Any, kind: type, what: str) -> Any:
    """`value`, if it is a list or a dict as expected; raises AnnotationError."""
    if isinstance(value, kind):
        return value
    expected = "a list" if kind is list else "an object"
    raise AnnotationError(
        f"{what} is {quoted(str(value))}, expected {expected}. Export the file again."
    )
