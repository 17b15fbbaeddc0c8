"""Counts people in images with a tuned adapter.

    from llava_dvc import Counter

    counter = Counter.from_pretrained("models/adapter")
    for found in counter.count(["hall.jpg", "stairs.jpg"]):
        print(found.count, found.low, found.high, found.most_likely())

The command line and the service use it too.
"""

import sys
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, overload

from peft import PeftModel
from PIL import Image

from llava_dvc.checks.loading import load_checked_adapter
from llava_dvc.data.images import read_image, upright_rgb
from llava_dvc.data.zones import paint_outside
from llava_dvc.errors import UserError, unknown_zone
from llava_dvc.evaluation.cuda_graphs import count_with_graphs, padded_sizes
from llava_dvc.evaluation.decoding import DecodedCounts, decode_answers
from llava_dvc.model.counting import Answers, CountPredictor
from llava_dvc.model.encoder import EncodedFrame, Encoder
from llava_dvc.recipe import Polygon, Recipe
from llava_dvc.serving.adapter_source import find_adapter
from llava_dvc.terminal.progress import progress
from llava_dvc.training.scenes import KnownScenes

GREY = Image.new("RGB", (640, 480))
BATCH = 8  # frames in one pass: what a card of 12 GB has room for

Picture = Image.Image | str | Path


@dataclass(frozen=True)
class Count:
    """The adapter's answer for one image."""

    count: int
    """Number of people, read as in the evaluation: usually the median."""
    low: int
    """Lower end of the 80 % interval: less than a tenth of the probability lies below it."""
    high: int
    """Upper end of the 80 % interval: at most a tenth of the probability lies above it."""
    expected: float
    """The distribution's mean."""
    probabilities: tuple[float, ...]
    """P(0), P(1), ... up to the largest count that the adapter can answer; they sum to 1."""
    reply: str
    """The model's free text. A tuned model writes only the number."""

    def most_likely(self, number: int = 3) -> list[tuple[int, float]]:
        """The `number` likeliest counts with their probabilities, likeliest first."""
        ranked = sorted(enumerate(self.probabilities), key=lambda pair: -pair[1])
        return ranked[:number]

    def summary(self) -> dict[str, Any]:
        """The rounded values for JSON, with the five likeliest counts."""
        likely = [
            {"count": count, "probability": round(share, 4)} for count, share in self.most_likely(5)
        ]
        return {
            "count": self.count,
            "low": self.low,
            "high": self.high,
            "expected": round(self.expected, 2),
            "most_likely": likely,
        }


class Counter:
    """Counts people in images with a tuned adapter. Make one with `from_pretrained`.

    Not safe to share between threads that count at the same time.
    """

    def __init__(self, model: PeftModel, encoder: Encoder, recipe: Recipe) -> None:
        self.recipe = recipe
        self.batch_size = BATCH
        self.scenes = KnownScenes(recipe.scenes) if recipe.scenes else None
        """None if the recipe does not say how the training frames look."""
        self.predictor = CountPredictor(
            model, encoder, recipe.question, recipe.max_count, flip=recipe.flip
        )

    @classmethod
    def from_pretrained(cls, adapter: str | Path) -> "Counter":
        """Load an adapter and its backbone.

        `adapter` is a folder, the id of a Hub repository with or without a revision
        (`owner/name@v1`), or `champion`, the registered model that is in use. Raises UserError when
        it is not there, or when the backbone cannot be loaded on this machine.
        """
        counter = cls(*load_checked_adapter(find_adapter(adapter)))
        if counter.predictor.model.device.type == "cuda":
            count_with_graphs(counter.predictor, counter.batch_size)
        return counter

    def warm_up(self) -> None:
        """Counts grey frames: the first batch is slow. On a GPU this compiles and records all
        sizes of a batch, and says on standard error how long that took.
        """
        if self.predictor.model.device.type != "cuda":
            self.count_in([GREY], zone=None)
            return
        began = time.monotonic()
        sizes = padded_sizes(self.batch_size)
        with progress("preparing", sum(sizes)):
            for size in sizes:
                self.count_in([GREY] * size, zone=None)
        sys.stderr.write(
            f"prepared for batches of up to {self.batch_size} frames in "
            f"{time.monotonic() - began:.1f} s\n"
        )

    def count(
        self, images: Sequence[Picture], zone: str | None = None, camera: str | None = None
    ) -> list[Count]:
        """One answer per image, in the order of `images`.

        A picture is a Pillow image, or a path that is read when its turn comes. An adapter that was
        tuned for a zone counts in it, or in `zone`; `camera` says whose outline is taken. Raises
        UserError when a picture cannot be read or the zone is not known, and TypeError for one
        picture that is not in a list.
        """
        return self.count_in(images, self.find_zone(zone, camera))

    def count_in(
        self, images: Sequence[Picture], zone: "Zone | None", fill: bool = False
    ) -> list[Count]:
        """As `count`, in a zone that `find_zone` found; None is the whole of the images.

        `fill` repeats an image until the last batch is full. An answer is then the same to the last
        digit, whichever other images there are.
        """
        if isinstance(images, str | Path | Image.Image):
            raise TypeError(f"expected a list of images, got one: {images!r}. Put it into a list.")
        pictures = Pictures(images, zone)

        def answer(places: list[int]) -> Answers:
            spare = -len(places) % self.batch_size if fill else 0
            batches = pictures.only([*places, *places[-1:] * spare])
            return self.predictor.predict(batches, self.batch_size)

        return self._count_alike(len(pictures), lambda place: pictures[place].size, answer)

    def encode(self, image: Picture, zone: "Zone | None") -> EncodedFrame:
        """What the model needs of an image, or of a zone of it, for `count_encoded`. Other threads
        can do it meanwhile.

        Raises UserError when the image cannot be read, or is smaller than the zone.
        """
        return self.predictor.encoder.encode_ahead(Pictures([image], zone)[0])

    def count_encoded(self, frames: Sequence[EncodedFrame]) -> list[Count]:
        """As `count_in`, for images that `encode` has encoded."""

        def answer(places: list[int]) -> Answers:
            alike = [frames[place] for place in places]
            return self.predictor.predict_encoded(alike, self.batch_size)

        sizes = [tuple(picture.size for picture in frame) for frame in frames]
        return self._count_alike(len(frames), sizes.__getitem__, answer)

    def find_zone(self, name: str | None = None, camera: str | None = None) -> "Zone | None":
        """The zone `name`, or that of the training. None if the adapter has none: then the whole
        frame is counted. Raises UserError when there is no such zone.
        """
        return zone_in_recipe(self.recipe, name, camera)

    def distance(self, image: Image.Image, camera: str | None = None) -> float | None:
        """How far an RGB image is from the training frames: above 1 it is unlike them.

        None if the recipe does not say how they look, or if the zone of the training has no outline
        for the camera or is larger than the image.
        """
        if self.scenes is None:
            return None
        try:
            zone = self.find_zone(camera=camera)
            return self.scenes.distance(zone.paint(image) if zone else image)
        except UserError:
            return None

    def _count_alike(
        self,
        number: int,
        size_at: Callable[[int], Hashable],
        answer: Callable[[list[int]], Answers],
    ) -> list[Count]:
        """Counts frames 0 to `number` - 1; `answer` gets the places of frames of one size."""
        found: dict[int, Count] = {}
        for places in self._of_one_size(number, size_at):
            decoded = decode_answers(answer(places), self.recipe.temperature, self.recipe.decode)
            found |= zip(places, _counts(decoded), strict=False)
        return [found[place] for place in range(number)]

    def _of_one_size(self, number: int, size_at: Callable[[int], Hashable]) -> list[list[int]]:
        """Places of frames that can be counted together: those of one size if padding is dropped,
        else all.
        """
        if not self.predictor.encoder.drops_padding:
            return [list(range(number))] if number else []
        by_size: dict[Hashable, list[int]] = {}
        for place in range(number):
            by_size.setdefault(size_at(place), []).append(place)
        return list(by_size.values())


class Zone(NamedTuple):
    """The area of a frame in which people are counted."""

    name: str
    polygon: Polygon

    def paint(self, image: Image.Image) -> Image.Image:
        """The RGB image without what is outside. Raises UserError when it is too small."""
        return paint_outside(image, self.polygon, self.name)


def zone_in_recipe(
    recipe: Recipe, name: str | None = None, camera: str | None = None
) -> Zone | None:
    """As `Counter.find_zone`, before the model is loaded."""
    zones = recipe.zones
    if zones is None:
        if name is not None:
            raise unknown_zone(name, [])
        return None
    return Zone(zones.name if name is None else name, zones.polygon(name, camera))


class Pictures(Sequence[Image.Image]):
    """Images as the model takes them. Each is decoded when it is read."""

    def __init__(self, images: Sequence[Picture], zone: Zone | None = None) -> None:
        self._images, self._zone = images, zone

    def __len__(self) -> int:
        return len(self._images)

    @overload
    def __getitem__(self, place: int) -> Image.Image: ...
    @overload
    def __getitem__(self, place: slice) -> "Pictures": ...
    def __getitem__(self, place: int | slice) -> "Image.Image | Pictures":
        if isinstance(place, slice):
            return Pictures(self._images[place], self._zone)
        image = self._images[place]
        rgb = upright_rgb(image) if isinstance(image, Image.Image) else read_image(Path(image))
        return self._zone.paint(rgb) if self._zone else rgb

    def only(self, places: Sequence[int]) -> "Pictures":
        return Pictures([self._images[place] for place in places], self._zone)


def _counts(decoded: DecodedCounts) -> list[Count]:
    columns = zip(
        decoded.count.tolist(),
        decoded.low.tolist(),
        decoded.high.tolist(),
        decoded.expected.tolist(),
        map(tuple, decoded.probabilities.tolist()),
        decoded.replies,
        strict=True,
    )
    return [Count(*column) for column in columns]
