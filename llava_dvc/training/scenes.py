"""How the cameras of the training frames look, and how far another picture is from that.

A camera that stands still has its edges in the same places in every frame. A map of them is coarse
enough for people who walk and for video compression, and fine enough to show that the camera has
moved, that its lens is smeared, or that it is night.
"""

import base64
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image, Resampling
from scipy.special import stdtrit

from llava_dvc.recipe import SCENE_SIZE, Scene

Floats = NDArray[np.float64]

FEWEST = 10
"""Frames of a camera that can be described."""
MOST = 500
"""Frames of a camera that are looked at, evenly spaced."""
PARTS = 5
"""Of the frames in order of time. The distance of each part is measured from all others."""
STEPS = 13.0
"""Steps of 8 bits to the square root of a grey level. The steepest edge is then at 247."""
LEAST_SPREAD = 0.02
"""Added to the spread everywhere, as a share of the mean edge."""
LARGEST = 4.0
"""Spreads that one place of the map can add: a person there is not a camera that moved."""
LEAST_DISTANCE = 0.1
"""Frames that are all the same have no distance, and no limit could be reckoned."""
COVERED = 0.999
"""Share of ordinary frames that are nearer than the limit."""


class KnownScenes:
    """The cameras of a recipe."""

    def __init__(self, scenes: Sequence[Scene]) -> None:
        self._maps = [
            (_unpacked(one.mean), _unpacked(one.spread).clip(min=1), one.limit) for one in scenes
        ]

    def distance(self, image: Image) -> float:
        """Of the camera that `image` is nearest to, in its limit: above 1, the picture is unlike
        the training frames. Outside the zone of the training it must be painted, as they are.
        """
        edges = edge_map(image)
        return min(map_distance(edges, mean, spread) / limit for mean, spread, limit in self._maps)


def describe_scenes(cameras: Sequence[str | None], images: Sequence[Image]) -> list[Scene] | None:
    """One scene for each camera. None if one of the cameras has under FEWEST frames.

    `cameras` says of which each image is. Images are in order of time, and are read one by one.
    """
    places = defaultdict(list)
    for place, camera in enumerate(cameras):
        places[camera].append(place)
    if min(map(len, places.values())) < FEWEST:
        return None
    return [_describe(camera, images, of_camera) for camera, of_camera in places.items()]


def edge_map(image: Image) -> Floats:
    """The square root of the edges' strength in a grey picture of SCENE_SIZE, row by row."""
    small = image.convert("L").resize(SCENE_SIZE, Resampling.BOX)
    down, across = np.gradient(np.asarray(small, dtype=np.float64))
    found: Floats = STEPS * np.sqrt(np.hypot(down, across)).ravel()
    return found


def mean_and_spread(maps: Floats) -> tuple[Floats, Floats]:
    """Of the maps of some frames, rounded as in a recipe."""
    spread = maps.std(axis=0) + LEAST_SPREAD * maps.mean()
    return maps.mean(axis=0).round(), spread.round().clip(min=1)


def map_distance(edges: Floats, mean: Floats, spread: Floats) -> float:
    """How many spreads a map is from the mean, on average over its places."""
    return float(np.minimum(np.abs(edges - mean) / spread, LARGEST).mean())


def distance_limit(distances: Sequence[float]) -> float:
    """The distance below which another frame is with COVERED probability.

    It is the prediction limit of Student's t for the logarithms, so it is wider for fewer frames.
    """
    logs, number = np.log(np.maximum(distances, LEAST_DISTANCE)), len(distances)
    widths = stdtrit(number - 1, COVERED) * np.sqrt(1 + 1 / number)
    return float(np.exp(logs.mean() + widths * logs.std(ddof=1)))


def _describe(camera: str | None, images: Sequence[Image], places: Sequence[int]) -> Scene:
    chosen = np.linspace(0, len(places) - 1, min(MOST, len(places))).round().astype(int)
    maps = np.stack([edge_map(images[places[one]]) for one in chosen.tolist()])
    distances = []
    for part in np.array_split(np.arange(len(maps)), PARTS):
        others = mean_and_spread(np.delete(maps, part, axis=0))
        distances += [map_distance(edges, *others) for edges in maps[part]]
    mean, spread = mean_and_spread(maps)
    limit = round(distance_limit(distances), 6)
    return Scene(camera=camera, mean=_packed(mean), spread=_packed(spread), limit=limit)


def _packed(values: Floats) -> str:
    return base64.b64encode(values.astype(np.uint8).tobytes()).decode()


def _unpacked(text: str) -> Floats:
    return np.frombuffer(base64.b64decode(text), dtype=np.uint8).astype(np.float64)
