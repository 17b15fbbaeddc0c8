"""The Prometheus metrics of `llava-dvc watch`."""

import time
from collections.abc import Callable, Iterator, Mapping

from prometheus_client import Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from llava_dvc.serving.service_metrics import batch_histogram, process_registry
from llava_dvc.serving.watch.camera.camera_reader import CameraReader
from llava_dvc.serving.watch.camera.camera_state import CameraView, ZoneView


class WatchMetrics(Collector):
    """The values of the cameras at the moment of a scrape.

    The count of an old frame, or of a suspect one, is left out.
    """

    def __init__(
        self,
        cameras: Mapping[str, CameraReader],
        alerts: Callable[[], Mapping[str, bool]],
        lost_rows: Callable[[], int],
    ) -> None:
        self.registry = process_registry()
        self.batches = batch_histogram(self.registry)
        self.seconds = Histogram(
            "llava_dvc_reading_seconds",
            "Time from a frame's arrival to its row",
            ["camera"],
            registry=self.registry,
            buckets=(0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10),
        )
        self._cameras, self._alerts, self._lost_rows = cameras, alerts, lost_rows
        self.registry.register(self)

    def describe(self) -> list[Metric]:
        """Nothing: the registry then does not collect at the start."""
        return []

    def collect(self) -> Iterator[Metric]:
        now = time.monotonic()
        views = {name: camera.state.view(now) for name, camera in self._cameras.items()}
        yield from _zone_gauges(views)
        yield from _gauges(views)
        dropped = CounterMetricFamily(
            "llava_dvc_dropped_frames", "Frames that a newer one replaced", labels=["camera"]
        )
        skipped = CounterMetricFamily(
            "llava_dvc_skipped_frames", "Frames not decoded, for lack of time", labels=["camera"]
        )
        reconnects = CounterMetricFamily(
            "llava_dvc_reconnects", "Attempts to reach a camera again", labels=["camera"]
        )
        for name, camera in self._cameras.items():
            dropped.add_metric([name], camera.newest.dropped)
            skipped.add_metric([name], camera.load.skipped)
            reconnects.add_metric([name], views[name].reconnects)
        yield from (dropped, skipped, reconnects)
        alert = GaugeMetricFamily("llava_dvc_alert", "1 if the alert is on", labels=["alert"])
        for text, on in self._alerts().items():
            alert.add_metric([text], on)
        yield alert
        yield CounterMetricFamily(
            "llava_dvc_lost_rows", "Rows that could not be written", value=self._lost_rows()
        )


PEOPLE = {
    ("people", "People in the newest frame"): ("alone", "count"),
    ("people_low", "Lower end of its 80 % interval"): ("alone", "low"),
    ("people_high", "Upper end of its 80 % interval"): ("alone", "high"),
    ("people_smoothed", "People, given the frames before too"): ("smoothed", "count"),
    ("people_smoothed_low", "Lower end of its 80 % interval"): ("smoothed", "low"),
    ("people_smoothed_high", "Upper end of its 80 % interval"): ("smoothed", "high"),
}
"""Name and help of a metric, and where its value is in a reading."""


def _zone_gauges(views: Mapping[str, CameraView]) -> Iterator[Metric]:
    """Yields the gauges that have one value for each zone of a camera, or none.

    To Prometheus, an empty label is no label.
    """
    for (name, text), (which, number) in PEOPLE.items():
        family = GaugeMetricFamily(f"llava_dvc_{name}", text, labels=["camera", "zone"])
        for camera, view in views.items():
            for zone in view.zones:
                if (value := _number(zone, which, number)) is not None:
                    family.add_metric([camera, zone.name or ""], value)
        yield family


def _gauges(views: Mapping[str, CameraView]) -> Iterator[Metric]:
    """Yields the gauges that have one value for each camera, or none."""
    values: dict[tuple[str, str], Callable[[CameraView], float | None]] = {
        ("frame_age_seconds", "Since the newest frame came"): lambda view: view.frame_age,
        ("camera_up", "1 while frames come"): lambda view: view.connection == "live",
        ("camera_suspect", "1 while the picture cannot be true"): (
            lambda view: None if view.reading is None else bool(view.reading.suspect)
        ),
    }
    for (name, text), value in values.items():
        family = GaugeMetricFamily(f"llava_dvc_{name}", text, labels=["camera"])
        for camera, view in views.items():
            if (number := value(view)) is not None:
                family.add_metric([camera], number)
        yield family


def _number(zone: ZoneView, which: str, number: str) -> int | None:
    if zone.reading is None or zone.reading.suspect:
        return None
    interval = getattr(zone.reading, which)
    found: int | None = getattr(interval, number, None)
    return found
