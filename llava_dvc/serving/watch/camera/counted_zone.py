"""One zone of a camera: what is painted for the model, and what is made of its counts."""

import logging
from collections.abc import Callable

from PIL.Image import Image

from llava_dvc.errors import UserError
from llava_dvc.model.encoder import EncodedFrame
from llava_dvc.serving.counter import Count, Zone
from llava_dvc.serving.watch.camera.forward_smoothing import ForwardSmoothing
from llava_dvc.serving.watch.camera.live_video import LiveFrame
from llava_dvc.serving.watch.reading import Interval, Reading

logger = logging.getLogger(__name__)


class FailureLog:
    """Logs the first of several failures in a row."""

    def __init__(self, name: str, problem: str = "a frame could not be counted") -> None:
        self._name, self._problem, self._failing = name, problem, False

    def report(self, error: Exception) -> None:
        if not self._failing and isinstance(error, UserError):
            logger.error("%s: %s", self._name, error)
        elif not self._failing:
            logger.error("%s: %s", self._name, self._problem, exc_info=error)
        self._failing = True

    def clear(self) -> None:
        """The next failure is logged again."""
        self._failing = False


class CountedZone:
    """A zone of one camera, or the whole of its frames, with a smoothing of its own."""

    def __init__(
        self,
        camera: str,
        zone: Zone | None,
        smoothing: ForwardSmoothing | None,
        encode: Callable[[Image, Zone | None], EncodedFrame],
    ) -> None:
        self._camera, self._zone, self._smoothing, self._encode = camera, zone, smoothing, encode
        self.name = zone.name if zone else None
        self.failures = FailureLog(f"{camera}/{zone.name}" if zone else camera)

    def encode(self, image: Image) -> EncodedFrame:
        """The zone of a frame for the model. Raises UserError when it is larger than the frame."""
        return self._encode(image, self._zone)

    def read(
        self, live: LiveFrame, count: Count, suspect: str | None, distance: float | None = None
    ) -> Reading:
        """Returns the reading of a frame that was counted. A suspect count smooths nothing."""
        smoothed = None
        if self._smoothing and not suspect:
            smoothed = interval_of(self._smoothing.step(count, live.came))
        alone = interval_of(count)
        return Reading(live.time, self._camera, alone, smoothed, suspect, self.name, distance)


def interval_of(count: Count) -> Interval:
    return Interval(count.count, count.low, count.high)
