"""The thread that counts the newest frame of one camera, again and again."""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future

from PIL.Image import Image

from llava_dvc.model.encoder import EncodedFrame
from llava_dvc.serving.counter import Count
from llava_dvc.serving.watch.camera.camera_reader import CameraReader
from llava_dvc.serving.watch.camera.counted_zone import CountedZone, FailureLog
from llava_dvc.serving.watch.camera.health import PictureHealth
from llava_dvc.serving.watch.camera.live_video import LiveFrame
from llava_dvc.serving.watch.camera.pacing import next_reading
from llava_dvc.serving.watch.reading import Reading

logger = logging.getLogger(__name__)

ZoneFuture = tuple[CountedZone, "Future[Count]"]


class CameraCounter:
    """Takes frames from `reader`, has them counted in `zones`, and gives readings to `on_reading`.

    At most one of its frames waits for the model. So a camera that is slow or fails takes nothing
    from the others.
    """

    def __init__(
        self,
        reader: CameraReader,
        enqueue: Callable[[EncodedFrame], "Future[Count]"],
        zones: Sequence[CountedZone],
        on_reading: Callable[[Reading, float], None],
        stop: threading.Event,
        distance: Callable[[Image], float | None] = lambda _: None,
    ) -> None:
        """`on_reading` also gets when the frame came, by the monotonic clock. `distance` is that
        from the training frames.
        """
        self.reader = reader
        self._enqueue, self._zones, self._on_reading = enqueue, zones, on_reading
        self._stop, self._distance = stop, distance
        self._failures = FailureLog(reader.camera.name)
        self._unmeasured = FailureLog(reader.camera.name, "a frame's distance is not known")
        self._health = PictureHealth()
        self._suspect: str | None = None
        name = f"count {reader.camera.name}"
        self._thread = threading.Thread(target=self._count_all, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def join(self, seconds: float | None = None) -> None:
        self._thread.join(seconds)

    def _count_all(self) -> None:
        every, offset = self.reader.state.every, self.reader.state.offset
        while (live := self.reader.newest.take()) is not None and not self._stop.is_set():
            self._count(live)
            del live
            now = time.monotonic()
            self._stop.wait(next_reading(now, every, offset) - now)

    def _count(self, live: LiveFrame) -> None:
        try:
            image = live.image()
        except Exception as error:  # one frame; the next one may be counted
            self._failures.report(error)
            return
        self._failures.clear()
        counts = self._enqueue_zones(image)
        distance = self._measure(image)
        self._watch_health(image, distance)
        if shown := self.reader.state.picture:
            shown.put(image)
        del image
        for zone, count in self._wait_for(counts):
            reading = zone.read(live, count, self._suspect, distance)
            self._on_reading(reading, live.came)
            self.reader.state.add_reading(live.came, reading)

    def _measure(self, image: Image) -> float | None:
        """Returns the distance from the training frames. A failure costs no reading."""
        try:
            distance = self._distance(image)
        except Exception as error:
            self._unmeasured.report(error)
            return None
        self._unmeasured.clear()
        return distance

    def _enqueue_zones(self, image: Image) -> list[ZoneFuture]:
        """Enqueues the frame in all zones at once, so that they are counted in one batch.

        Encodes it in the thread of its camera, while the frames of others are counted.
        """
        encoded = []
        for zone in self._zones:
            try:
                encoded.append((zone, zone.encode(image)))
            except Exception as error:  # the other zones are counted
                zone.failures.report(error)
        return [(zone, self._enqueue(frame)) for zone, frame in encoded]

    def _wait_for(self, counts: Sequence[ZoneFuture]) -> Iterator[tuple[CountedZone, Count]]:
        for zone, future in counts:
            try:
                count = future.result()
            except Exception as error:  # the other zones are counted
                zone.failures.report(error)
                continue
            zone.failures.clear()
            yield zone, count

    def _watch_health(self, image: Image, distance: float | None) -> None:
        suspect = self._health.step(image, distance)
        if suspect != self._suspect:
            name = self.reader.camera.name
            logger.warning("%s: the picture is %s", name, suspect or "true again")
        self._suspect = suspect
