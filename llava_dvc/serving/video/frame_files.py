"""`llava-dvc frames VIDEO...`: frames of recordings become files in `data/frames`."""

import math
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from llava_dvc.data.imports.import_folder import import_folder
from llava_dvc.errors import UserError
from llava_dvc.serving.video.sampling import TOLERANCE, DamagedVideo, sample_video

QUALITY = 95
"""Of the JPEG files. Below, small heads lose their edges."""

CELLS = (160, 120)
EQUAL = 8.0
"""Two frames are near-equal if no cell of a grid of CELLS differs by more grey levels of 255."""


def write_frame_files(
    videos: Sequence[Path], data: Path, every: float, say: Callable[[str], object]
) -> int:
    """Writes a frame of each `every` seconds to `frames` in `data`; returns how many.

    The frames of door.mp4 are door/000000.jpg, door/000030.jpg and so on, by seconds, or by
    milliseconds if `every` is no whole number. A frame that is near-equal to the one kept before it
    is left out. `say` gets a line for each video. Nothing is written if a video cannot be read.
    Raises UserError.
    """
    if not (math.isfinite(every) and every >= 0.001):
        raise UserError(f"--every: is {every:g}, expected seconds, at least 0.001. Correct it.")
    folder, total = data / "frames", 0
    with import_folder(data) as new:
        names = _names_of(videos, folder)
        for video, name in names.items():
            total += _write_video(video, new / name, every, say)
        for name in names.values():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (new / name).rename(folder / name)
    return total


def _names_of(videos: Sequence[Path], folder: Path) -> dict[Path, str]:
    """The folder of each video's frames: its path below what all share, without suffix."""
    unknown = [str(video) for video in videos if not video.is_file()]
    if unknown:
        raise UserError(f"{', '.join(unknown)}: no such file. Correct the path.")
    top = os.path.commonpath([video.absolute().parent for video in videos])
    names: dict[Path, str] = {}
    for video in videos:
        name = video.absolute().relative_to(top).with_suffix("").as_posix()
        if name in names.values() or (folder / name).exists():
            raise UserError(
                f"{folder / name}: frames of {video} would go there, but it is taken. Rename the "
                "video, or delete the folder."
            )
        names[video] = name
    return names


def _write_video(video: Path, folder: Path, every: float, say: Callable[[str], object]) -> int:
    """Writes the frames of one video, and returns how many; raises UserError."""
    folder.mkdir(parents=True)
    kept, seen = 0, 0
    last: NDArray[np.float64] | None = None
    notes: list[str] = []
    for seconds, image in _intact_frames(video, every, notes):
        seen += 1
        cells = np.asarray(image.convert("L").resize(CELLS, Image.Resampling.BOX), dtype=np.float64)
        if last is None or np.abs(cells - last).max() > EQUAL:
            image.save(folder / f"{_time_name(seconds, every)}.jpg", quality=QUALITY)
            kept, last = kept + 1, cells
    for note in notes:
        say(f"{note}\n")
    say(f"{video}: {kept} frames. Near-equal ones left out: {seen - kept}.\n")
    return kept


def _intact_frames(
    video: Path, every: float, notes: list[str]
) -> Iterator[tuple[float, Image.Image]]:
    """As `sample_video`, but damage is only noted: the other frames are good."""
    try:
        yield from sample_video(video, every, notes)
    except DamagedVideo as error:
        notes.append(str(error))


def _time_name(seconds: float, every: float) -> str:
    """Digits only, so that the frames of a video are neighbours by their names."""
    if float(every).is_integer():
        return f"{int(seconds + TOLERANCE):06d}"
    return f"{round(seconds * 1000):09d}"
