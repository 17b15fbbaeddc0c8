"""Checks that labels of the Mall data set belong to the frames in the same folder.

A popular copy of Mall numbers the frames in another order than the authors: its low numbers are
about every sixth frame of the video, the others are the rest. Frames of the copy with the authors'
labels, or the reverse, would train and evaluate without any error on the labels of other images.
"""

import hashlib
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import uniform_filter1d
from sklearn.linear_model import Ridge
from sklearn.model_selection import KFold, cross_val_predict

from llava_dvc.data.frames import Frame
from llava_dvc.data.table import frame_name
from llava_dvc.errors import UserError

Floats = NDArray[np.float64]

# SHA-256 of the last 4096 bytes of the authors' frame 3, which the copy calls frame 1. The end of
# the file, because tools add metadata at its start.
COPY_FIRST = "2e482b83abe6094ce68e18bd7fbd30f517cc0c5899dbb36c2d51e00f0f6f07ef"

MIN_FRAMES = 300
"""With fewer frames the score is not reliable: wrong pairs of 100 Mall frames reached 0.65."""

MIN_SCORE = 0.5
"""Below this `pairing_score` the labels belong to other images."""

_REMEDIES = {
    "mall_gt.mat": "The frames were renumbered, as in a popular copy of Mall, and the authors' "
    "labels belong to other images. Remove mall_gt.mat and put the labels.csv of that copy there, "
    "or take the authors' frames.",
    "labels.csv": "A popular copy of Mall renumbers the frames; its labels.csv does not belong to "
    "the authors' frames. Remove labels.csv and put the authors' mall_gt.mat there, or take the "
    "frames that came with labels.csv.",
}


def check_pairing(frames: Sequence[Frame], source: str) -> None:
    """Raises UserError if the labels belong to other images.

    `source` is the file that the labels come from, mall_gt.mat or labels.csv.
    """
    first = frames[0]
    copied = first.name == frame_name(1) and tail_digest(first.path) == COPY_FIRST
    if copied and source == "mall_gt.mat":
        raise UserError(f"{first.path}: is the authors' frame 3. {_REMEDIES[source]}")
    if len(frames) >= MIN_FRAMES:
        score = pairing_score([x.path for x in frames], [x.count for x in frames])
        if score < MIN_SCORE:
            raise UserError(
                f"{first.path.parents[1]}: the counts in {source} do not follow the images "
                f"(correlation {score:.2f}, expected at least {MIN_SCORE}). {_REMEDIES[source]}"
            )
    if copied:
        logging.getLogger(__name__).warning(
            "These frames are not numbered in order of time. With them split.strategy temporal "
            "leaks as a random split does. The authors' own download is in order of time."
        )


def tail_digest(path: Path) -> str:
    """SHA-256 of the last 4096 bytes of a file."""
    return hashlib.sha256(path.read_bytes()[-4096:]).hexdigest()


def pairing_score(paths: Sequence[Path], counts: Sequence[int]) -> float:
    """The correlation of counts with a ridge regression on the images, from -1 to 1.

    The features are how far each of 20x15 cells is from its median over time. Five contiguous
    blocks are each predicted from the other four. Slow changes of light and crowd are removed,
    because they correlate in any pairing. On 800 frames of Mall the score is 0.83 for the right
    pairing, and below 0.2 when one side is renumbered like the copy. On 300 of them it is 0.69 to
    0.85, and below 0.35.
    """
    with ThreadPoolExecutor() as pool:
        images = np.stack(list(pool.map(_load_thumbnail, paths)))
    distance = np.abs(images - np.median(images, axis=0))
    cells = distance.reshape(len(paths), 15, 4, 20, 4).mean(axis=(2, 4)).reshape(len(paths), -1)
    features, people = _remove_drift(cells), _remove_drift(np.array(counts, dtype=float))
    spread = features.std(axis=0)
    features = features / (spread + 0.3 * spread.mean() + 1e-9)
    strength = 0.3 * float(np.square(features).sum(axis=1).mean()) + 1e-9
    guess = cross_val_predict(Ridge(alpha=strength), features, people, cv=KFold(5))
    deviations = guess.std() * people.std()
    covariance = ((guess - guess.mean()) * (people - people.mean())).mean()
    return float(covariance / deviations) if deviations > 0 else 0.0


def _load_thumbnail(path: Path) -> Floats:
    """Grey values of shape (60, 80)."""
    with Image.open(path) as image:
        image.draft("L", (80, 60))  # the JPEG decoder then skips detail that BOX would average
        small = image.convert("L").resize((80, 60), Image.Resampling.BOX)
    return np.asarray(small, dtype=np.float64)


def _remove_drift(values: Floats) -> Floats:
    """Subtracts from each frame's values the mean of the 51 frames around it."""
    mean: Floats = uniform_filter1d(values, size=51, axis=0, mode="nearest")
    return values - mean
