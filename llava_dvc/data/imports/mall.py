"""`llava-dvc import-mall SRC`: imports the Mall data set, or other frames, into `data/`.

Mall: K. Chen, C. C. Loy, S. Gong, T. Xiang, "Feature mining for localised crowd counting",
BMVC 2012. Its authors ship frames/ and mall_gt.mat. A popular copy ships frames/ and labels.csv,
and numbers the frames in another order: `pairing.py` checks that labels and frames belong together.
"""

import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from llava_dvc.conversation import PLACEHOLDER, Conversation
from llava_dvc.data.data_errors import DataError
from llava_dvc.data.folders import require_own_file
from llava_dvc.data.images import upright_size
from llava_dvc.data.imports.count_matrix import read_matrix_counts, read_matrix_points
from llava_dvc.data.imports.import_folder import import_folder, replace_data
from llava_dvc.data.imports.named_frames import stage_named_frames
from llava_dvc.data.imports.pairing import check_pairing
from llava_dvc.data.imports.staged_frames import STRICT, ImportRules, check_staged
from llava_dvc.data.imports.zip_archive import unpack_zip
from llava_dvc.data.labels import RECORD, Label, read_labels, write_labels
from llava_dvc.data.messages import format_conversation, read_conversations
from llava_dvc.data.points import POINTS, Points, write_points
from llava_dvc.data.table import frame_name
from llava_dvc.data.zones import ZONES
from llava_dvc.errors import UserError

QUESTIONS = (
    "How many people are in this image? Answer with a single number.",
    "Count the people in this picture and reply with the number only.",
    "This is a frame from a security camera. How many people can be seen? Give one number.",
    "이 이미지에는 사람이 몇 명 있나요? 숫자 하나로만 답하세요.",
    "사진 속 사람의 수를 세어 숫자만 답해 주세요.",
    "이 CCTV 화면에 보이는 사람은 모두 몇 명인가요? 숫자로만 답하세요.",
)

_FRAME = re.compile(r"seq_([0-9]{6})\.jpg")
_REPLACEABLE = ("frames", "labels.csv", "messages.txt", POINTS, ZONES, RECORD)


def default_messages() -> str:
    """The text of messages.txt: one question in six phrasings, three of them Korean."""
    lines = (format_conversation(Conversation(text, PLACEHOLDER)) for text in QUESTIONS)
    return "".join(f"{line}\n" for line in lines)


def import_mall(source: Path, data: Path, rules: ImportRules = STRICT) -> int:
    """Replaces the frames and labels in `data` by those in `source`; returns the number of frames.

    `source` is a folder or a .zip. It has the form of Mall, or any other form that `data` may
    have. An existing messages.txt is kept; else that of `source` is taken, if it has one. An
    existing zones.json is kept. `data` is replaced in one step after all checks. Raises UserError
    with the reason. Call `dvc_add` next.
    """
    with import_folder(data) as folder:
        require_replaceable(data)
        unpacked, staged = folder / "unpacked", folder / "staged"
        try:
            root = stage_mall(source, unpacked, staged, rules)
            stage_messages(root, data, staged)
        except UserError as error:
            raise with_user_paths(error, {unpacked: source, staged: source}) from None
        replace_data(data, staged, folder)
    return len(read_labels(data / "labels.csv"))


def stage_mall(source: Path, unpacked: Path, staged: Path, rules: ImportRules) -> Path:
    """Writes the checked frames, labels and points to `staged`; returns the folder of the source.

    A zip is unpacked to `unpacked`. Raises UserError.
    """
    root = source if source.is_dir() else unpack_zip(source, unpacked)
    labels_from = stage_frames(root, staged, rules)
    stage_points(root, staged)
    frames = check_staged(staged, rules)
    if labels_from:
        check_pairing(frames, labels_from)
    return root


def stage_messages(root: Path, data: Path, staged: Path) -> None:
    """Copies messages.txt from `data`, else from below `root`, else writes the default. Copies
    zones.json from `data`.
    """
    if (data / ZONES).is_file():
        shutil.copyfile(data / ZONES, staged / ZONES)
    kept = data / "messages.txt"
    given = kept if kept.is_file() else _find_one(root, "messages.txt")
    if given:
        read_conversations(given.parent)
        shutil.copyfile(given, staged / "messages.txt")
    else:
        (staged / "messages.txt").write_text(default_messages(), encoding="utf-8")


def dvc_add(data: Path) -> None:
    """Tracks `data` with DVC, in a new .dvc file; raises UserError."""
    record = data.with_name(f"{data.name}.dvc")
    before = record.read_bytes() if record.is_file() else None
    # `dvc add` would keep the sample's `remote:`, and the next `dvc push` would then copy these
    # frames, which may not be redistributed, into the git repository.
    record.unlink(missing_ok=True)
    command = [sys.executable, "-m", "dvc", "add", data.name]
    returncode = None
    try:
        done = subprocess.run(command, cwd=data.absolute().parent, capture_output=True, text=True)
        returncode = done.returncode
    finally:
        if returncode != 0 and before is not None:
            record.write_bytes(before)
    if returncode:
        reason = " ".join(done.stderr.split()) or f"exit code {returncode}"
        raise UserError(
            f"{data}: the frames are there, but `dvc add {data.name}` failed: {reason}. Run it "
            "again when this is solved."
        )


def stage_frames(root: Path, staged: Path, rules: ImportRules) -> str | None:
    """Copies the frames below `root` to `staged` and writes their labels.csv.

    Returns the name of the file that the labels come from: "mall_gt.mat", or "labels.csv" when
    there is no other. None for frames with names or cameras of their own, which are not Mall's.
    """
    table = _find_one(root, "labels.csv")
    if table and not _find_one(root, "mall_gt.mat"):
        labels = read_labels(table)
        if labels and not _have_form_of_mall(labels):
            stage_named_frames(root, table, labels, staged)
            return None
    frames = _find_frames(root)
    labels_from, counts = _find_counts(root)
    _require_pairs(root, frames, counts, rules)
    (staged / "frames").mkdir(parents=True)
    for number, path in frames.items():
        shutil.copyfile(path, staged / "frames" / frame_name(number))
    write_labels(staged / "labels.csv", counts)
    return labels_from


def stage_points(root: Path, staged: Path) -> None:
    """Writes points.csv to `staged`: a copy of the one below `root`, else the head points in
    mall_gt.mat. Writes nothing if there is neither.

    A head that is cut off by the edge may be marked outside the frame: it moves to the edge.
    """
    if table := _find_one(root, POINTS):
        shutil.copyfile(table, staged / POINTS)
        return
    matrix = _find_one(root, "mall_gt.mat")
    points = read_matrix_points(matrix) if matrix else {}
    if points:
        inside = {}
        for number, count in read_table_counts(staged / "labels.csv").items():
            heads = points.get(number, [])
            if len(heads) != count:
                raise UserError(
                    f"{matrix}: frame {number} has {len(heads)} head points, but its count is "
                    f"{count}. Download the file again."
                )
            inside[number] = _moved_inside(staged / "frames" / frame_name(number), heads)
        write_points(staged / POINTS, inside)


def _moved_inside(frame: Path, points: Points) -> Points:
    width, height = upright_size(frame)
    return [(min(max(x, 0), width), min(max(y, 0), height)) for x, y in points]


def _require_pairs(
    root: Path, frames: Mapping[int, Path], counts: Mapping[int, int], rules: ImportRules
) -> None:
    """Raises UserError for labels without a frame, and for frames that have to have a label."""
    labelled = frames.keys() & counts.keys() if rules.allow_unlabelled else frames.keys()
    if unpaired := sorted(labelled ^ counts.keys()):
        kind = "frame" if unpaired[0] in frames else "label"
        allow = "" if rules.allow_unlabelled else " Or set data.unlabelled to allow in params.yaml."
        raise UserError(
            f"{root}: {len(frames)} frames and {len(counts)} labels do not match: number "
            f"{unpaired[0]} has only a {kind}. Numbers without a frame or a label: "
            f"{len(unpaired)}. Add what is missing.{allow if kind == 'frame' else ''}"
        )


def _have_form_of_mall(labels: Sequence[Label]) -> bool:
    return all(_FRAME.fullmatch(label.name) and label.camera is None for label in labels)


def _find_frames(root: Path) -> dict[int, Path]:
    """Paths by number; all frames must be in one folder, at any depth."""
    paths = [path for path in sorted(root.rglob("seq_*.jpg")) if _FRAME.fullmatch(path.name)]
    _require_files(paths)
    folders = sorted({path.parent for path in paths})
    if not folders:
        raise UserError(
            f"{root}: has no frames such as frames/seq_000001.jpg. Check the path, or put a "
            "labels.csv with `frame,count` beside frames that have other names."
        )
    if len(folders) > 1:
        raise UserError(
            f"{root}: has frames in {folders[0]} and in {folders[1]}. Keep one of them."
        )
    for path in paths:
        require_own_file(path, root)
    return {int(path.stem.removeprefix("seq_")): path for path in paths}


def _find_counts(root: Path) -> tuple[str, dict[int, int]]:
    """The name of the label file, and people by number; two label files must agree."""
    table, matrix = _find_one(root, "labels.csv"), _find_one(root, "mall_gt.mat")
    if matrix is None and table is None:
        raise UserError(f"{root}: has neither mall_gt.mat nor labels.csv. Put one beside frames/.")
    table_counts = {} if table is None else read_table_counts(table)
    if matrix is None:
        return "labels.csv", table_counts
    matrix_counts = read_matrix_counts(matrix)
    if table is not None:
        _require_equal(root, table_counts, matrix_counts)
    return "mall_gt.mat", matrix_counts


def _find_one(root: Path, name: str) -> Path | None:
    paths = sorted(root.rglob(name))
    _require_files(paths)
    if len(paths) > 1:
        raise UserError(f"{root}: has {paths[0]} and {paths[1]}. Keep one of them.")
    if not paths:
        return None
    require_own_file(paths[0], root)
    return paths[0]


def _require_files(paths: Sequence[Path]) -> None:
    """Raises UserError for a folder, a pipe or a broken link with the name of a file."""
    for path in paths:
        if not path.is_file():
            raise UserError(f"{path}: is not a file. Delete it, or put the file in its place.")


def read_table_counts(path: Path) -> dict[int, int]:
    """People by number in labels.csv; raises UserError."""
    counts = {}
    for label in read_labels(path):
        match = _FRAME.fullmatch(label.name)
        if match is None:
            raise UserError(
                f"{path}:{label.line}: frame is {label.name!r}, expected seq_NNNNNN.jpg. Rename "
                "the frame and correct the line."
            )
        counts[int(match[1])] = label.count
    return counts


def _require_equal(root: Path, table: Mapping[int, int], matrix: Mapping[int, int]) -> None:
    differ = [n for n in sorted(table.keys() | matrix.keys()) if table.get(n) != matrix.get(n)]
    if differ:
        n = differ[0]
        raise UserError(
            f"{root}: labels.csv and mall_gt.mat differ on {len(differ)} frames (frame {n}: "
            f"{table.get(n)} and {matrix.get(n)}), as in a popular copy of Mall that renumbers the "
            "frames. Remove mall_gt.mat if the frames came with labels.csv. Remove labels.csv if "
            "they are the authors'."
        )


def require_replaceable(data: Path) -> None:
    """Raises UserError if `data` has a file that an import would delete, or a bad messages.txt."""
    others = [p for p in data.iterdir() if p.name not in _REPLACEABLE] if data.is_dir() else []
    if others:
        raise UserError(
            f"{others[0]}: would be lost, because the import replaces {data}. Move it elsewhere."
        )
    if (data / "messages.txt").is_file():
        read_conversations(data)


def with_user_paths(error: UserError, names: Mapping[Path, Path]) -> UserError:
    """The same error with the user's paths instead of temporary ones."""
    if isinstance(error, DataError):
        return error.with_paths(names)
    text = str(error)
    for ours, theirs in names.items():
        text = text.replace(str(ours), str(theirs))
    return UserError(text)
