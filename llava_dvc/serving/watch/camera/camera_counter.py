"""The thread that counts the newest frame of one camera, again and again."""

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace

from PIL.Image import Image

from llava_dvc.errors import UserError
from llava_dvc.serving.counter import Count
from llava_dvc.serving.watch.camera.camera_reader import CameraReader
from llava_dvc.serving.watch.camera.forward_smoothing import ForwardSmoothing
from llava_dvc.serving.watch.camera.health import PictureHealth
from llava_dvc.serving.watch.camera.live_video import LiveFrame
from llava_dvc.serving.watch.camera.pacing import next_reading
from llava_dvc.serving.watch.reading import Interval, Reading

logger = logging.getLogger(__name__)


class CameraCounter:
    """Takes frames from `reader`, has them counted, and gives readings to `on_reading`.

    At most one of its frames waits for the model. So a camera that is slow or fails takes nothing
    from the others.
    """

    def __init__(
        self,
        reader: CameraReader,
        enqueue: Callable[[Image], "Future[Count]"],
        smoothing: ForwardSmoothing | None,
        on_reading: Callable[[Reading, float], None],
        stop: threading.Event,
        distance: Callable[[Image], float | None] = lambda _: None,
    ) -> None:
        """`on_reading` also gets when the frame came, by the monotonic clock. `distance` is that
        from the training frames.
        """
        self.reader = reader
        self._enqueue, self._smoothing, self._on_reading = enqueue, smoothing, on_reading
        self._stop, self._distance = stop, distance
        self._failing = False
        self._health = PictureHealth()
        self._suspect: str | None = None
        name = f"count {reader.camera.name}"
        self._thread = threading.Thread(target=self._count_all, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def join(self, seconds: float | None = None) -> None:
        self._thread.join(seconds)

    def _count_all(self) -> None:
        every = self.reader.state.every
        while (live := self.reader.newest.take()) is not None and not self._stop.is_set():
            self._count(live)
            del live
            now = time.monotonic()
            self._stop.wait(next_reading(now, every) - now)

    def _count(self, live: LiveFrame) -> None:
        try:
            image = live.image()
            counting = self._enqueue(image)
            distance = self._distance(image)
            count = counting.result()
        except UserError as error:
            if not self._failing:
                logger.error("%s: %s", self.reader.camera.name, error)
            self._failing = True
            return
        except Exception:  # one frame; the next one may be counted
            if not self._failing:
                logger.exception("%s: a frame could not be counted", self.reader.camera.name)
            self._failing = True
            return
        self._failing = False
        suspect = self._health.step(image, distance)
        name = self.reader.camera.name
        reading = Reading(live.time, name, interval_of(count), suspect=suspect, distance=distance)
        if suspect != self._suspect:
            logger.warning("%s: the picture is %s", name, suspect or "true again")
        self._suspect = suspect
        if self._smoothing and not suspect:
            smoothed = interval_of(self._smoothing.step(count, live.came))
            reading = replace(reading, smoothed=smoothed)
        self._on_reading(reading, live.came)
        self.reader.state.add_reading(live.came, reading)


def interval_of(count: Count) -> Interval:
    return Interval(count.count, count.low, count.high)
