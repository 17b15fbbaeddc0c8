"""`llava-dvc import-mall SRC`: bring the Mall data set into `data/`.

Mall: K. Chen, C. C. Loy, S. Gong, T. Xiang, "Feature mining for localised crowd counting",
BMVC 2012. Its authors ship frames/ and mall_gt.mat; a popular copy ships frames/ and labels.csv.

The copy numbers the same frames otherwise: its low numbers are about every sixth frame of the
video, the others fill the rest. Its frames with the authors' labels, or the reverse, would train
and evaluate on labels of other pictures without any error, so the pairing is checked three
ways: by the two label files where both are there, by a known frame, and by whether the labels
can be predicted from the pictures at all.
"""

import hashlib
import logging
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.io import loadmat
from scipy.ndimage import uniform_filter1d
from sklearn.linear_model import Ridge
from sklearn.model_selection import KFold, cross_val_predict

from llava_dvc.conversation import PLACEHOLDER, Conversation
from llava_dvc.data.data_errors import DataError
from llava_dvc.data.frames import Frame, read_frames
from llava_dvc.data.labels import frame_name, read_labels, write_labels
from llava_dvc.data.messages import format_conversation, read_conversations
from llava_dvc.errors import UserError

Floats = NDArray[np.float64]

QUESTIONS = (
    "How many people are in this image? Answer with a single number.",
    "Count the people in this picture and reply with the number only.",
    "This is a frame from a security camera. How many people can be seen? Give one number.",
    "이 이미지에는 사람이 몇 명 있나요? 숫자 하나로만 답하세요.",
    "사진 속 사람의 수를 세어 숫자만 답해 주세요.",
    "이 CCTV 화면에 보이는 사람은 모두 몇 명인가요? 숫자로만 답하세요.",
)

# SHA-256 of the last 4096 bytes of the authors' frame 3, which the copy calls frame 1. The end of
# the file, because tools that add metadata put it at the front.
COPY_FIRST = "2e482b83abe6094ce68e18bd7fbd30f517cc0c5899dbb36c2d51e00f0f6f07ef"

CHECKABLE = 300
"""Fewer frames say too little: among 100 of Mall's, wrong pairings reached 0.65."""

MATCH = 0.5
"""Below this correlation the labels are not those of the pictures; see `pairing_score`."""

MAX_UNPACKED = 4 << 30
"""Bytes taken out of a zip; the data set has about 90 MB."""

_FRAME = re.compile(r"seq_([0-9]{6})\.jpg")
_WANTED = ("labels.csv", "mall_gt.mat")
_KEPT = ("frames", "labels.csv", "messages.txt")


def default_messages() -> str:
    """The text of messages.txt: the same question in six ways, three of them Korean."""
    lines = (format_conversation(Conversation(text, PLACEHOLDER)) for text in QUESTIONS)
    return "".join(f"{line}\n" for line in lines)


def import_mall(source: Path, data: Path) -> int:
    """Replace the frames and labels in `data` by those of `source`; returns how many.

    `source` is a folder or a .zip. An existing messages.txt is kept. `data` changes only when
    everything has been checked, and then at once. Raises UserError with the reason. Call
    `dvc_add` next.
    """
    _require_replaceable(data)
    # Beside `data`, so that the last step is a rename.
    with tempfile.TemporaryDirectory(prefix=".import-mall-", dir=data.absolute().parent) as folder:
        unpacked, staged = Path(folder, "unpacked"), Path(folder, "staged")
        try:
            root = source if source.is_dir() else unpack(source, unpacked)
            labelled_by = stage(root, staged)
            frames = read_frames(staged, exclude=())
            check_pairing(frames, labelled_by)
        except UserError as error:
            raise _renamed(error, {unpacked: source, staged: source}) from None
        if (data / "messages.txt").is_file():
            shutil.copyfile(data / "messages.txt", staged / "messages.txt")
        else:
            (staged / "messages.txt").write_text(default_messages(), encoding="utf-8")
        _swap(staged, data, Path(folder, "replaced"))
    return len(frames)


def dvc_add(data: Path) -> None:
    """Track `data` with DVC, in place of whatever its .dvc file tracked; raises UserError."""
    record = data.with_name(f"{data.name}.dvc")
    before = record.read_bytes() if record.is_file() else None
    # `dvc add` would keep the sample's `remote:`, and the next `dvc push` would then put these
    # frames, which may not be passed on, into the git repository.
    record.unlink(missing_ok=True)
    command = [sys.executable, "-m", "dvc", "add", data.name]
    done = subprocess.run(command, cwd=data.absolute().parent, capture_output=True, text=True)
    if done.returncode:
        if before is not None:
            record.write_bytes(before)
        reason = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
        raise UserError(f"{data} is filled, but `dvc add {data.name}` failed: {reason}")


def unpack(archive: Path, folder: Path) -> Path:
    """The frames and labels of a zip, written below `folder`; other members stay packed."""
    if not archive.is_file():
        raise UserError(f"{archive}: no such folder or .zip file. Check the path.")
    try:
        with zipfile.ZipFile(archive) as file:
            members = _wanted_members(archive, file.infolist())
            for member in members:
                file.extract(member, folder)
    except (zipfile.BadZipFile, RuntimeError, EOFError, zlib.error) as error:
        raise UserError(f"{archive}: cannot be unpacked ({error}). Get it again.") from None
    return folder


def stage(root: Path, staged: Path) -> str:
    """Copy the frames below `root` and write their labels.csv; returns where the labels are from.

    That is "mall_gt.mat", or "labels.csv" when there is no other.
    """
    frames = _frames(root)
    labelled_by, counts = _counts(root)
    if lone := sorted(frames.keys() ^ counts.keys()):
        kind = "frame" if lone[0] in frames else "label"
        raise UserError(
            f"{root}: {len(frames)} frames and {len(counts)} labels do not match: number {lone[0]} "
            f"has only a {kind}, and so on for {len(lone)} in all. Get the missing files again."
        )
    (staged / "frames").mkdir(parents=True)
    for number, path in frames.items():
        shutil.copyfile(path, staged / "frames" / frame_name(number))
    write_labels(staged / "labels.csv", counts)
    return labelled_by


def check_pairing(frames: Sequence[Frame], labelled_by: str) -> None:
    """Raise UserError if the labels are those of other pictures; see the module's text."""
    first = frames[0]
    copied = first.name == frame_name(1) and _tail(first.path) == COPY_FIRST
    if copied and labelled_by == "mall_gt.mat":
        raise UserError(f"{first.path}: is the authors' frame 3. {_REMEDIES[labelled_by]}")
    if len(frames) >= CHECKABLE:
        score = pairing_score([x.path for x in frames], [x.count for x in frames])
        if score < MATCH:
            raise UserError(
                f"{first.path.parents[1]}: the counts of {labelled_by} do not follow the pictures "
                f"(correlation {score:.2f}, expected at least {MATCH}). {_REMEDIES[labelled_by]}"
            )
    if copied:
        logging.getLogger(__name__).warning(
            "These frames are not numbered in order of time: with them split.strategy temporal "
            "leaks as a random one does. The authors' own download has the order."
        )


_REMEDIES = {
    "mall_gt.mat": "The frames were renumbered, as in a popular copy of Mall, and the authors' "
    "labels belong to other pictures. Remove mall_gt.mat and put the labels.csv of that copy "
    "there, or take the authors' frames.",
    "labels.csv": "A popular copy of Mall renumbers the frames; its labels.csv does not belong to "
    "the authors' frames. Remove labels.csv and put the authors' mall_gt.mat there, or take the "
    "frames that labels.csv came with.",
}


def pairing_score(paths: Sequence[Path], counts: Sequence[int]) -> float:
    """How well counts follow pictures, from -1 to 1: the correlation with a ridge regression.

    The regression sees how far each of 20x15 cells is from the usual picture, and predicts five
    contiguous blocks in turn from the other four. Slow drifts of light and crowd are removed, as
    they would correlate without any pairing. On 800 frames of Mall: 0.83 when paired rightly,
    under 0.2 when one side is renumbered like the copy; on 300 of them 0.69 to 0.85, and under
    0.35.
    """
    with ThreadPoolExecutor() as pool:
        pictures = np.stack(list(pool.map(_thumbnail, paths)))
    unusual = np.abs(pictures - np.median(pictures, axis=0))
    cells = unusual.reshape(len(paths), 15, 4, 20, 4).mean(axis=(2, 4)).reshape(len(paths), -1)
    features, people = _without_drift(cells), _without_drift(np.array(counts, dtype=float))
    spread = features.std(axis=0)
    features = features / (spread + 0.3 * spread.mean() + 1e-9)
    strength = 0.3 * float(np.square(features).sum(axis=1).mean()) + 1e-9
    guess = cross_val_predict(Ridge(alpha=strength), features, people, cv=KFold(5))
    deviations = guess.std() * people.std()
    covariance = ((guess - guess.mean()) * (people - people.mean())).mean()
    return float(covariance / deviations) if deviations > 0 else 0.0


def _thumbnail(path: Path) -> Floats:
    with Image.open(path) as image:
        image.draft("L", (80, 60))  # lets the JPEG decoder skip detail that would be averaged
        small = image.convert("L").resize((80, 60), Image.Resampling.BOX)
    return np.asarray(small, dtype=np.float64)


def _without_drift(values: Floats) -> Floats:
    """`values` less their mean over the 51 frames around each."""
    mean: Floats = uniform_filter1d(values, size=51, axis=0, mode="nearest")
    return values - mean


def _tail(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()[-4096:]).hexdigest()


def _require_replaceable(data: Path) -> None:
    others = [path for path in data.iterdir() if path.name not in _KEPT] if data.is_dir() else []
    if others:
        raise UserError(f"{others[0]}: would be lost, as {data} is replaced. Move it elsewhere.")
    if (data / "messages.txt").is_file():
        read_conversations(data)


def _wanted_members(archive: Path, members: Iterable[zipfile.ZipInfo]) -> list[zipfile.ZipInfo]:
    wanted = []
    for member in members:
        path = PurePosixPath(member.filename.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts or ":" in member.filename:
            raise UserError(f"{archive}: member {member.filename!r} leads outside. Do not use it.")
        if path.name in _WANTED or _FRAME.fullmatch(path.name):
            wanted.append(member)
    size = sum(member.file_size for member in wanted)
    if size > MAX_UNPACKED:
        raise UserError(f"{archive}: unpacks to {size:,} bytes, more than {MAX_UNPACKED:,}.")
    return wanted


def _frames(root: Path) -> dict[int, Path]:
    """Paths by number; they must lie in one folder, however deep."""
    paths = [path for path in sorted(root.rglob("seq_*.jpg")) if _FRAME.fullmatch(path.name)]
    folders = sorted({path.parent for path in paths})
    if not folders:
        raise UserError(f"{root}: has no frames/seq_000001.jpg and so on. Check the path.")
    if len(folders) > 1:
        raise UserError(f"{root}: frames in {folders[0]} and in {folders[1]}. Keep one of them.")
    return {int(path.stem.removeprefix("seq_")): path for path in paths}


def _counts(root: Path) -> tuple[str, dict[int, int]]:
    """Where the labels are from, and people by number; two sources must agree."""
    table, matrix = _only(root, "labels.csv"), _only(root, "mall_gt.mat")
    if matrix is None and table is None:
        raise UserError(f"{root}: has neither mall_gt.mat nor labels.csv. Put one beside frames/.")
    copied = {} if table is None else _table_counts(table)
    if matrix is None:
        return "labels.csv", copied
    counts = matrix_counts(matrix)
    if table is not None:
        _require_equal(root, copied, counts)
    return "mall_gt.mat", counts


def _only(root: Path, name: str) -> Path | None:
    found = sorted(root.rglob(name))
    if len(found) > 1:
        raise UserError(f"{root}: has {found[0]} and {found[1]}. Keep one of them.")
    return found[0] if found else None


def _table_counts(path: Path) -> dict[int, int]:
    counts = {}
    for label in read_labels(path):
        match = _FRAME.fullmatch(label.name)
        if match is None:
            raise UserError(f"{path}:{label.line}: frame is {label.name!r}, not seq_NNNNNN.jpg.")
        counts[int(match[1])] = label.count
    return counts


def matrix_counts(path: Path) -> dict[int, int]:
    """`count` of mall_gt.mat, one row per frame from frame 1 on; raises UserError."""
    try:
        values = np.ravel(loadmat(path, variable_names=["count"])["count"]).astype(float)
    except Exception as error:  # a broken file makes loadmat raise almost anything
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: `count` cannot be read ({reason}). Get the file again.") from None
    bad = np.flatnonzero(~np.isfinite(values) | (values < 0) | (values != np.rint(values)))
    if bad.size:
        raise UserError(
            f"{path}: count of frame {bad[0] + 1} is {values[bad[0]]:g}, expected a whole number "
            ">= 0. Get the file again."
        )
    return {number: int(value) for number, value in enumerate(values, start=1)}


def _require_equal(root: Path, copied: Mapping[int, int], counts: Mapping[int, int]) -> None:
    differ = [n for n in sorted(copied.keys() | counts.keys()) if copied.get(n) != counts.get(n)]
    if differ:
        n = differ[0]
        raise UserError(
            f"{root}: labels.csv and mall_gt.mat differ on {len(differ)} frames (frame {n}: "
            f"{copied.get(n)} and {counts.get(n)}), as in a popular copy of Mall that renumbers "
            "the frames. Remove mall_gt.mat if the frames came with labels.csv; remove labels.csv "
            "if they are the authors'."
        )


def _renamed(error: UserError, names: Mapping[Path, Path]) -> UserError:
    """The same error about the places the user knows, not our temporary ones."""
    if isinstance(error, DataError):
        return error.renamed(names)
    text = str(error)
    for ours, theirs in names.items():
        text = text.replace(str(ours), str(theirs))
    return UserError(text)


def _swap(new: Path, old: Path, aside: Path) -> None:
    if not old.exists():
        new.rename(old)
        return
    old.rename(aside)
    try:
        new.rename(old)
    except OSError:
        aside.rename(old)
        raise
