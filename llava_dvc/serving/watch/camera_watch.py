"""All cameras of one `llava-dvc watch`, with the one model that they share."""

import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from llava_dvc.serving.counter import Counter
from llava_dvc.serving.request_batcher import RequestBatcher
from llava_dvc.serving.watch.camera.address import CameraAddress
from llava_dvc.serving.watch.camera.camera_counter import CameraCounter
from llava_dvc.serving.watch.camera.camera_reader import CameraReader
from llava_dvc.serving.watch.camera.camera_state import CameraState
from llava_dvc.serving.watch.camera.counted_zone import CountedZone
from llava_dvc.serving.watch.camera.pacing import reading_offsets
from llava_dvc.serving.watch.camera.shown_picture import ShownPicture
from llava_dvc.serving.watch.reading import Reading
from llava_dvc.serving.watch.reading_sink import ReadingSink
from llava_dvc.serving.watch.watch_metrics import WatchMetrics
from llava_dvc.serving.watch.watch_options import Pace

GATHER_SECONDS = 0.02
"""The cameras of a group give their frames at the same time, but not in the same moment."""
CLOSE_SECONDS = 15.0
"""For the frames that are being counted when the command ends."""


class CameraWatch:
    """Two threads for each camera: one decodes, one counts. A model that all share.

    Raises UserError when one of the zones has no outline for a camera.
    """

    def __init__(
        self,
        counter: Counter,
        cameras: Sequence[CameraAddress],
        pace: Pace,
        sink: ReadingSink,
        zones: Sequence[str | None] = (None,),
        show_frames: bool = False,
    ) -> None:
        """`zones` are names that the adapter knows. None is the zone of its training. With
        `show_frames`, the newest picture of each camera is held in memory for the page.
        """
        self.on_end: Callable[[], None] = lambda: None
        """Is called when no camera sends frames any more, or a row cannot be written."""
        self.failure: Exception | None = None
        """Why a row could not be written."""
        self.readers: dict[str, CameraReader] = {}
        self._sink, self._shows_frames = sink, show_frames
        self._stop = threading.Event()
        found = {
            camera.name: [counter.find_zone(name, camera.name) for name in zones]
            for camera in cameras
        }
        together = max(1, counter.batch_size // len(zones))
        offsets = reading_offsets(len(cameras), together, pace.every)
        for camera, offset in zip(cameras, offsets, strict=True):
            names = [zone and zone.name for zone in found[camera.name]]
            state = CameraState(pace.every, names, offset)
            state.picture = ShownPicture() if show_frames else None
            self.readers[camera.name] = CameraReader(
                camera, state, pace.transport, pace.stall, self._stop
            )
        self.metrics = WatchMetrics(
            self.readers,
            lambda: {alert.rule.text: alert.on for alert in sink.alerts},
            lambda: sink.lost_rows,
        )
        self._batcher = RequestBatcher(
            counter.count_encoded,
            counter.batch_size,
            self.metrics.batches.observe,
            GATHER_SECONDS,
        )
        self._counters = [
            CameraCounter(
                reader,
                self._batcher.enqueue,
                [
                    CountedZone(name, zone, pace.smoothing(counter.recipe), counter.encode)
                    for zone in found[name]
                ],
                self._take,
                self._stop,
                partial(counter.distance, camera=reader.camera.name),
            )
            for name, reader in self.readers.items()
        ]

    def start(self) -> None:
        for reader in self.readers.values():
            reader.start()
        for counter in self._counters:
            counter.start()
        threading.Thread(target=self._wait_for_all, name="ending", daemon=True).start()

    def page_rows(self) -> dict[str, dict[str, Any]]:
        """Returns the values of all cameras for the page. `picture` is the number of the newest
        one; it is there if pictures are shown, and None for a camera that is not live.
        """
        now = time.monotonic()
        rows = {name: reader.state.view(now).page_row() for name, reader in self.readers.items()}
        for name, row in rows.items() if self._shows_frames else ():
            shown = self._shown(name)
            row["picture"] = shown.number or None if shown else None
        return rows

    def picture(self, camera: str) -> bytes | None:
        """Returns the newest picture of a camera that is live, as JPEG. None if none is shown."""
        shown = self._shown(camera)
        return shown.jpeg() if shown else None

    def _shown(self, camera: str) -> ShownPicture | None:
        state = self.readers[camera].state if camera in self.readers else None
        return state.picture if state and state.connection == "live" else None

    def close(self) -> None:
        """Ends the threads, writes the rows of the frames that are being counted."""
        self._stop.set()
        for reader in self.readers.values():
            reader.newest.close()
        deadline = time.monotonic() + CLOSE_SECONDS
        for counter in self._counters:
            counter.join(max(0.0, deadline - time.monotonic()))
        self._batcher.close()
        self._sink.close()

    def _wait_for_all(self) -> None:
        for counter in self._counters:
            counter.join()
        self.on_end()

    def _take(self, reading: Reading, came: float) -> None:
        try:
            self._sink.take(reading)
        except Exception as error:  # standard output is closed
            self.failure = self.failure or error
            self.on_end()
            return
        self.metrics.seconds.labels(reading.camera).observe(time.monotonic() - came)
