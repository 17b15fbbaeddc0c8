"""Imports frames with names or cameras of their own: the forms of labels.csv that Mall lacks."""

import shutil
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from llava_dvc.data.data_errors import printable_name
from llava_dvc.data.folders import require_own_file
from llava_dvc.data.imports.zip_archive import LABEL_FILES, composed, is_system_file
from llava_dvc.data.labels import Label
from llava_dvc.errors import UserError


def stage_named_frames(root: Path, table: Path, labels: Sequence[Label], staged: Path) -> None:
    """Copies the frames that `table` lists, and all other files in their folder, with the table.

    The check of `staged` then finds frames without a file and files without a label. A name whose
    accents only have another form is written as in the table. Raises UserError.
    """
    files = _list_files(root)
    folder = _frames_folder(root, files, [label.name for label in labels])
    written = {composed(label.name): label.name for label in labels}
    for path in files:
        if not path.is_relative_to(folder):
            continue
        if root / folder == table.parent and path.parent == folder and path.name in LABEL_FILES:
            continue
        require_own_file(root / path, root)
        name = str(path.relative_to(folder))
        target = staged / "frames" / written.get(composed(name), name)
        if target.exists():
            raise UserError(f"{root / path}: exists twice, in two forms of accents. Delete one.")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root / path, target)
    shutil.copyfile(table, staged / "labels.csv")


def _list_files(root: Path) -> list[PurePosixPath]:
    """Paths below `root`, without those that an operating system adds."""
    paths = ((path, PurePosixPath(path.relative_to(root))) for path in sorted(root.rglob("*")))
    return [inner for path, inner in paths if not is_system_file(inner) and not path.is_dir()]


def _frames_folder(
    root: Path, files: Sequence[PurePosixPath], names: Sequence[str]
) -> PurePosixPath:
    """The folder in which most of the labelled frames are; raises UserError."""
    by_name: dict[str, list[PurePosixPath]] = defaultdict(list)
    for file in files:
        by_name[composed(file.name)].append(file)
    found: Counter[PurePosixPath] = Counter()
    for name in map(composed, names):
        depth = len(PurePosixPath(name).parts)
        for file in by_name[PurePosixPath(name).name]:
            if composed("/".join(file.parts[-depth:])) == name:
                found[file.parents[depth - 1]] += 1
    if not found:
        raise UserError(
            f"{root}: has none of the {len(names)} frames in labels.csv, such as "
            f"{printable_name(names[0])}. Check the path, or correct the names in labels.csv."
        )
    (folder, most), *others = found.most_common()
    if others and others[0][1] == most:
        folders = sorted([root / folder, root / others[0][0]])
        raise UserError(
            f"{root}: has frames in {folders[0]} and in {folders[1]}. Keep one of them."
        )
    return folder
