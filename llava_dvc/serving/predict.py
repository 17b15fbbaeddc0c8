"""`llava-dvc predict`: count the people in pictures and videos, and show it."""

import csv
import glob
import io
import json
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, groupby, islice
from pathlib import Path
from typing import Any, Literal, TypeVar

from PIL import Image
from tqdm import tqdm

from llava_dvc.data.images import read_rgb
from llava_dvc.data.labels import natural_key
from llava_dvc.errors import UserError
from llava_dvc.serving import video
from llava_dvc.serving.counter import Count, Counter
from llava_dvc.serving.overlay import Point, annotate, timeline

Format = Literal["table", "csv", "jsonl"]

PICTURES = {".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
CHUNK = {"cpu": 4, "cuda": 16}
"""Batches counted in one call. Beside a GPU every call starts processes that resize the frames."""
AHEAD = 64  # frames decoded beforehand
SHOWN = 20  # unreadable files named in the end

T = TypeVar("T")


@dataclass(frozen=True)
class Frame:
    name: str
    """Its path; `clip.mp4#t=12` for a video's frame at 12 seconds."""
    image: Image.Image
    seconds: float | None
    """Since the beginning of its video; None for a picture."""


def count_files(
    patterns: Sequence[str],
    adapter: str | Path,
    form: Format | None = None,
    every: float = 1.0,
    annotated: Path | None = None,
    timeline_file: Path | None = None,
) -> None:
    """Write a row a frame to standard output: a table on a terminal, else CSV.

    What cannot be read is named when everything else is counted, and raises UserError then.
    `annotated` is a folder for frames with their counts on them, `timeline_file` a picture of the
    count over time.
    """
    _check(every, annotated, timeline_file)
    paths = find(patterns)
    counter = Counter.from_pretrained(adapter)
    failed: list[str] = []
    points: list[Point] = []
    show = Rows(form or ("table" if sys.stdout.isatty() else "csv"), paths)
    with tqdm(total=_expected(paths, every), unit="frame", disable=None) as bar:
        for frame, count in count_paths(counter, paths, every, failed):
            show(frame, count)
            if annotated:
                annotate(frame.image, count, annotated, frame.name)
            points.append(Point(frame.seconds, count.low, count.count, count.high))
            bar.update()
    if timeline_file and points:
        timeline(points, timeline_file)
    _report(failed, len(paths))


def count_paths(
    counter: Counter, paths: Sequence[Path], every: float, failed: list[str]
) -> Iterator[tuple[Frame, Count]]:
    """Every frame of `paths` in order with its count; what is wrong with the rest goes into
    `failed`.
    """
    size = counter.batch_size * CHUNK[counter.recipe.backbone.device]
    frames = read(paths, every, min(size, AHEAD), failed)
    while chunk := list(islice(frames, size)):
        yield from zip(chunk, counter.count([frame.image for frame in chunk]), strict=True)
        sys.stdout.flush()


def _check(every: float, annotated: Path | None, timeline_file: Path | None) -> None:
    """What would else fail after all the work."""
    if every <= 0:
        raise UserError(f"--every: is {every:g}, expected seconds above 0")
    if timeline_file and timeline_file.suffix.lower() != ".png":
        raise UserError(f"--timeline: is {timeline_file}, expected a name that ends in .png")
    for folder in filter(None, [annotated, timeline_file and timeline_file.parent]):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"{folder}: cannot be made ({error.strerror}); choose another"
            ) from None


def _report(failed: Sequence[str], files: int) -> None:
    """Raises UserError with what could not be read, if there is anything."""
    if failed:
        more = [f"... and {len(failed) - SHOWN} more"] if len(failed) > SHOWN else []
        head = f"{len(failed)} of {files} could not be read; all else is counted:"
        raise UserError("\n".join([head, *failed[:SHOWN], *more]))


# --- what to read -----------------------------------------------------------------------------


def find(patterns: Sequence[str]) -> list[Path]:
    """The files that `patterns` name: files, folders (the pictures in them) and globs.

    Those of a folder or glob in natural order, each once. Raises UserError when there is nothing
    behind one.
    """
    found: dict[Path, None] = {}
    missing = []
    for pattern in patterns:
        files = _files(pattern)
        found |= dict.fromkeys(files)
        missing += [] if files else [pattern]
    if missing:
        raise UserError(f"{', '.join(missing[:5])}: not there{_and_more(missing)}; mend the path")
    return list(found)


def _and_more(missing: Sequence[str]) -> str:
    return f" ({len(missing)} in all)" if len(missing) > 1 else ""


def _files(pattern: str) -> list[Path]:
    path = Path(pattern)
    if path.is_file():
        return [path]
    known = PICTURES | (set() if path.is_dir() else video.SUFFIXES)
    names = path.rglob("*") if path.is_dir() else map(Path, glob.iglob(pattern, recursive=True))
    files = [name for name in names if name.suffix.lower() in known and name.is_file()]
    return sorted(files, key=lambda name: natural_key(name.as_posix()))


def _is_video(path: Path) -> bool:
    return path.suffix.lower() in video.SUFFIXES


def _expected(paths: Sequence[Path], every: float) -> int:
    return sum(video.expected_frames(p, every) if _is_video(p) else 1 for p in paths)


# --- reading ----------------------------------------------------------------------------------


def read(paths: Sequence[Path], every: float, size: int, failed: list[str]) -> Iterator[Frame]:
    """The frames of `paths` in order, up to `size` of them decoded beforehand by other threads."""
    for films, alike in groupby(paths, _is_video):
        filmed = chain.from_iterable(_film(path, every) for path in alike)
        for frame in ahead(filmed, size) if films else in_parallel(_picture, alike, size):
            if isinstance(frame, UserError):
                failed.append(str(frame))
            else:
                yield frame


def _picture(path: Path) -> Frame | UserError:
    try:
        return Frame(str(path), read_rgb(path), None)
    except UserError as error:
        return error


def _film(path: Path, every: float) -> Iterator[Frame | UserError]:
    try:
        for seconds, image in video.sample(path, every):
            yield Frame(f"{path}#t={seconds:g}", image, seconds)
    except UserError as error:
        yield error


def in_parallel(function: Callable[[Any], T], items: Iterable[Any], size: int) -> Iterator[T]:
    """`function` of each item, in order, at most `size` of them at work or waiting."""
    with stopped(ThreadPoolExecutor()) as pool:
        rest = iter(items)
        waiting = deque(pool.submit(function, item) for item in islice(rest, size))
        while waiting:
            done = waiting.popleft().result()
            waiting.extend(pool.submit(function, item) for item in islice(rest, 1))
            yield done


def ahead(items: Iterable[T], size: int) -> Iterator[T]:
    """The items, up to `size` of them made beforehand by one other thread."""
    with stopped(ThreadPoolExecutor(1)) as pool:
        source, end = iter(items), object()
        waiting = deque(pool.submit(next, source, end) for _ in range(size))
        while (item := waiting.popleft().result()) is not end:
            waiting.append(pool.submit(next, source, end))
            yield item  # type: ignore[misc]  # `end` is told apart above


@contextmanager
def stopped(pool: ThreadPoolExecutor) -> Iterator[ThreadPoolExecutor]:
    """The pool; who no longer waits for what it has not begun need not wait for its end."""
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


# --- showing ----------------------------------------------------------------------------------


class Rows:
    """Writes one row a frame, the header before the first."""

    def __init__(self, form: Format, paths: Sequence[Path]) -> None:
        longest = max(len(str(path)) + 9 * _is_video(path) for path in paths)
        self.width = min(longest, 48)
        self.row = {"table": self._table, "csv": _csv, "jsonl": _json}[form]
        header = {
            "table": f"{'frame':<{self.width}}  count  80 %      most likely",
            "csv": "frame,count,low,high",
            "jsonl": None,
        }[form]
        if header:
            _line(header)

    def __call__(self, frame: Frame, count: Count) -> None:
        _line(self.row(frame, count))

    def _table(self, frame: Frame, count: Count) -> str:
        name = frame.name if len(frame.name) <= self.width else "…" + frame.name[1 - self.width :]
        likely = ", ".join(f"{number} ({share:.0%})" for number, share in count.most_likely())
        between = f"{count.low}-{count.high}"
        return f"{name:<{self.width}}  {count.count:>5}  {between:<8}  {likely}"


def _line(text: str) -> None:
    tqdm.write(text, file=sys.stdout)  # above the progress bar where both are on one terminal


def _csv(frame: Frame, count: Count) -> str:
    text = io.StringIO()  # names may hold commas and quotes
    row = frame.name, count.count, count.low, count.high
    csv.writer(text, lineterminator="").writerow(row)
    return text.getvalue()


def _json(frame: Frame, count: Count) -> str:
    row = {"frame": frame.name} | ({} if frame.seconds is None else {"seconds": frame.seconds})
    return json.dumps(row | count.summary(), ensure_ascii=False)
