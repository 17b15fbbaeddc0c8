"""Real streams and the real model: newest frames, lost cameras, metrics."""

import logging
import threading
import time

import numpy as np
import pytest
from PIL import Image
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from llava_dvc.data.zones import OUTSIDE
from llava_dvc.errors import UserError
from llava_dvc.recipe import Smoothing
from llava_dvc.serving.counter import Count, Counter
from llava_dvc.serving.watch.alerts import Alert, parse_alerts
from llava_dvc.serving.watch.camera import camera_counter, health, pacing
from llava_dvc.serving.watch.camera.address import parse_cameras
from llava_dvc.serving.watch.camera.live_video import LiveFrame
from llava_dvc.serving.watch.camera_watch import CameraWatch
from llava_dvc.serving.watch.reading_sink import ReadingSink
from llava_dvc.serving.watch.watch_options import Pace
from llava_dvc.training.scenes import KnownScenes, describe_scenes
from tests.conftest import frame
from tests.serving.watch.cameras import MjpegCamera

EVERY = 0.1
BATCHED = ("llava_dvc_batch_frames_sum",)
BATCHES = ("llava_dvc_batch_frames_count",)


class Rows(ReadingSink):
    """Keeps the readings in place of writing them."""

    def __init__(self, alerts=()):
        super().__init__(None, "jsonl", alerts, ())
        self.readings = []
        self.changed = threading.Condition()

    def take(self, reading):
        with self.changed:
            self.readings.append(reading)
            self.changed.notify_all()

    def of(self, camera):
        return [one for one in self.readings if one.camera == camera]

    def wait_for(self, number, camera, seconds=20):
        """Waits until the camera has as many more readings."""
        with self.changed:
            wanted = len(self.of(camera)) + number
            assert self.changed.wait_for(lambda: len(self.of(camera)) >= wanted, seconds)


@pytest.fixture
def camera():
    camera = MjpegCamera()
    yield camera
    camera.stop()


@pytest.fixture
def count_with(monkeypatch):
    """Lets a function of images count in place of a counter, before they are encoded."""

    def paint(image, zone):
        return zone.paint(image) if zone else image

    def replace(count, counter):
        monkeypatch.setattr(counter, "encode", paint)
        monkeypatch.setattr(counter, "count_encoded", count)

    return replace


@pytest.fixture
def watching(counter, caplog, monkeypatch):
    """Starts a watch of these sources; returns it and its rows."""
    monkeypatch.setattr(pacing, "FIRST_WAIT", 0.05)
    caplog.set_level(logging.INFO)
    started = []

    def start(*sources, stall=5.0, counter=counter, zones=(None,)):
        rows = Rows()
        pace = Pace(every=EVERY, stall=stall)
        started.append(CameraWatch(counter, parse_cameras(sources, True), pace, rows, zones))
        started[-1].ended = threading.Event()
        started[-1].on_end = started[-1].ended.set
        started[-1].start()
        return started[-1], rows

    yield start
    for watch in started:
        watch.close()


def samples(watch):
    """The metrics as Prometheus reads them: name and labels to value."""
    text = generate_latest(watch.metrics.registry).decode()
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_good_cameras_are_counted_beside_bad_ones_and_no_password_is_shown(
    watching, camera, caplog, capfd
):
    silent = MjpegCamera()
    silent.sending.clear()  # it accepts connections, and sends nothing
    sources = [f"hall={camera.url}", f"door={camera.url}", f"silent={silent.url}"]
    watch, rows = watching(*sources, "gone=http://user:geheim@127.0.0.1:1/geheim", stall=1.0)
    for name in ("hall", "door"):
        rows.wait_for(4, name)
    found = samples(watch)
    text = generate_latest(watch.metrics.registry).decode()
    silent.stop()
    assert {one.camera for one in rows.readings} == {"hall", "door"}
    for name in ("hall", "door"):
        assert found["llava_dvc_people", name, ""] in {one.alone.count for one in rows.of(name)}
        assert found["llava_dvc_frame_age_seconds", name] >= 0
        assert found["llava_dvc_dropped_frames_total", name] > 5
        assert found["llava_dvc_skipped_frames_total", name] == 0
        assert found["llava_dvc_camera_up", name] == 1
    assert found["llava_dvc_camera_up", "gone"] == 0
    assert found["llava_dvc_reconnects_total", "gone"] >= 1
    assert ("llava_dvc_people", "gone", "") not in found
    assert found["llava_dvc_batch_frames_sum",] > found["llava_dvc_batch_frames_count",]
    assert any(line.startswith("gone: Connection refused; next") for line in caplog.messages)
    assert not [one for one in caplog.records if one.name.startswith("libav")]
    shown = text + caplog.text + "".join(capfd.readouterr())
    assert "geheim" not in shown


def test_a_camera_is_counted_in_its_zone(watching, zoned_folder, count_with):
    """Each camera has its own outline, in one batch."""
    zoned, seen = Counter.from_pretrained(zoned_folder), []
    zones = zoned.recipe.zones.model_copy(update={"name": "door"})
    zones.polygons["door"]["yard"] = ((0, 0), (64, 0), (64, 48), (0, 48))
    zoned.recipe = zoned.recipe.model_copy(update={"zones": zones})
    count_with(lambda images: seen.extend(images) or zoned.count_in(images, None), zoned)
    grey = MjpegCamera([Image.new("L", (64, 48), 250)])
    _, rows = watching(f"hall={grey.url}", f"yard={grey.url}", counter=zoned)
    rows.wait_for(3, "hall")
    rows.wait_for(3, "yard")
    grey.stop()
    corners = {(image.getpixel((2, 2))[0], image.getpixel((60, 40))) for image in seen}
    assert corners == {(250, (250, 250, 250)), (250, OUTSIDE)}
    with pytest.raises(UserError, match=r"zone door: has no outline for the camera roof, only"):
        watching(f"roof={grey.url}", counter=zoned)


def test_each_zone_has_readings_metrics_and_a_smoothing_of_its_own(
    watching, zoned_folder, count_with, monkeypatch
):
    """The zones of both cameras go in one batch. A frame is decoded once for all its zones."""
    zoned, decoded = Counter.from_pretrained(zoned_folder), []
    zones = zoned.recipe.zones.model_copy(deep=True)
    zones.polygons["door"] = {"*": ((32, 0), (64, 0), (64, 48), (32, 48))}
    smoothing = Smoothing(spread=0.5, temperature=1.0)
    zoned.recipe = zoned.recipe.model_copy(update={"zones": zones, "smoothing": smoothing})
    image = LiveFrame.image
    monkeypatch.setattr(LiveFrame, "image", lambda live: decoded.append(live) or image(live))

    def few_at_the_tills(images):
        """3 people where the right half is painted, else 20; a smoothing of both stays at one."""
        numbers = [3 if image.getpixel((60, 40)) == OUTSIDE else 20 for image in images]
        size = len(zoned.count_in(images, None)[0].probabilities)
        rows = 0.6 * np.eye(size)[numbers] + 0.4 / size
        return [Count(n, n, n, n, tuple(row), "") for n, row in zip(numbers, rows, strict=True)]

    count_with(few_at_the_tills, zoned)
    monkeypatch.setattr(health, "FROZEN_READINGS", 1000)
    camera = MjpegCamera()
    sources = [f"hall={camera.url}", f"yard={camera.url}"]
    watch, rows = watching(*sources, counter=zoned, zones=["tills", "door"])
    rows.wait_for(12, "hall")
    rows.wait_for(2, "yard")
    deadline = time.monotonic() + 30
    while (found := samples(watch))[BATCHED] <= 2 * found[BATCHES] and time.monotonic() < deadline:
        rows.wait_for(2, "hall")  # until both cameras were in one batch
    camera.stop()
    for name in ("hall", "yard"):
        counts = {(one.zone, one.alone.count, one.smoothed.count) for one in rows.of(name)}
        assert counts == {("tills", 3, 3), ("door", 20, 20)}
        for zone, number in (("tills", 3), ("door", 20)):
            assert found["llava_dvc_people", name, zone] == number
            assert found["llava_dvc_people_smoothed", name, zone] == number
        times = [one.time for one in rows.of(name)]
        assert len(times) == 2 * len(set(times))
        shown = watch.page_rows()[name]["zones"]
        assert [(one["zone"], one["people"]["count"]) for one in shown] == [
            ("tills", 3), ("door", 20),
        ]  # fmt: skip
    assert len(decoded) <= len(rows.readings) / 2 + 2
    assert found[BATCHED] > 2 * found[BATCHES]


def test_a_zone_larger_than_the_frame_costs_the_other_zones_nothing(
    watching, zoned_folder, camera, caplog
):
    zoned = Counter.from_pretrained(zoned_folder)
    zones = zoned.recipe.zones.model_copy(deep=True)
    zones.polygons["door"] = {"*": ((0, 0), (640, 0), (640, 480))}
    zoned.recipe = zoned.recipe.model_copy(update={"zones": zones})
    _, rows = watching(f"hall={camera.url}", counter=zoned, zones=["door", "tills"])
    rows.wait_for(3, "hall")
    assert {one.zone for one in rows.readings} == {"tills"}
    faults = [line for line in caplog.messages if "has a corner at" in line]
    assert len(faults) == 1
    assert faults[0].startswith("hall/door: zone door: has a corner at 640, 0, but the frame has")


def test_cameras_beyond_a_batch_are_read_one_after_the_other(
    watching, counter, camera, monkeypatch
):
    monkeypatch.setattr(counter, "batch_size", 1)
    offsets = set()

    def next_reading(now, every, offset):
        offsets.add(offset)
        return pacing.next_reading(now, every, offset)

    monkeypatch.setattr(camera_counter, "next_reading", next_reading)
    _, rows = watching(f"hall={camera.url}", f"door={camera.url}")
    for name in ("hall", "door"):
        rows.wait_for(3, name)
    assert offsets == {0, EVERY / 2}


def test_a_reading_is_of_the_newest_frame(watching, counter, count_with):
    """While the model is busy with the first frame, twenty come. The last of them is counted."""
    camera = MjpegCamera([Image.new("L", (64, 48), level) for level in range(250)])
    seen, watched = [], threading.Event()

    def count_slowly(images):
        seen.append(images[0].getpixel((9, 9))[0])
        watched.wait(20)
        while watch.readers["hall"].newest.dropped < 20:
            time.sleep(0.001)
        return counter.count_in(images, None)

    count_with(count_slowly, counter)
    watch, rows = watching(f"hall={camera.url}")
    watched.set()
    rows.wait_for(2, "hall")
    camera.stop()
    assert seen[1] >= seen[0] + 20


def test_a_camera_that_restarts_is_found_again(watching, caplog):
    camera = MjpegCamera()
    watch, rows = watching(f"hall={camera.url}")
    rows.wait_for(2, "hall")
    camera.stop()
    port = camera.server_port
    while watch.readers["hall"].state.reconnects < 4:
        time.sleep(0.01)
    again = MjpegCamera(port=port)
    rows.wait_for(2, "hall")
    again.stop()
    events = [line.partition("; next")[0] for line in caplog.messages]
    assert events[:2] == ["hall: live, 64x48", "hall: the connection was lost"]
    assert events.count("hall: Connection refused") == 1
    assert "hall: live, 64x48" in events[2:]
    assert samples(watch)["llava_dvc_reconnects_total", "hall"] >= 4


def test_a_camera_that_stops_sending_is_noticed(watching, camera, caplog):
    _, rows = watching(f"hall={camera.url}", stall=0.4)
    rows.wait_for(2, "hall")
    camera.sending.clear()
    start = time.monotonic()
    while "hall: no picture for 0.4 s; next attempt in 0.05 s" not in caplog.messages:
        time.sleep(0.01)
        assert time.monotonic() - start < 5
    camera.sending.set()
    rows.wait_for(2, "hall")


def test_a_frozen_picture_is_suspect_and_its_count_is_in_no_metric(watching, caplog):
    camera = MjpegCamera([frame(1)])
    watch, rows = watching(f"hall={camera.url}")
    rows.wait_for(7, "hall")
    found = samples(watch)
    camera.stop()
    assert [one.suspect for one in rows.of("hall")][:6] == [None] * 4 + ["frozen"] * 2
    assert ("llava_dvc_people", "hall", "") not in found
    assert found["llava_dvc_camera_suspect", "hall"] == 1
    assert caplog.messages.count("hall: the picture is frozen") == 1


def test_a_camera_that_moved_is_suspect_until_it_is_back(watching, counter, monkeypatch, caplog):
    """Stripes stand where the training frames have them, then elsewhere, then there again."""
    here, elsewhere = ([striped(left, light) for light in range(12)] for left in (0, 5))
    known = KnownScenes(describe_scenes([None] * 12, here))
    monkeypatch.setattr(counter, "scenes", known)
    camera = MjpegCamera(here[:])
    watch, rows = watching(f"hall={camera.url}")
    rows.wait_for(2, "hall")
    for pictures, suspect in ((elsewhere, 1), (here, 0)):
        camera.pictures[:] = pictures
        start = time.monotonic()
        while samples(watch)["llava_dvc_camera_suspect", "hall"] != suspect:
            time.sleep(0.01)
            assert time.monotonic() - start < 10
    camera.stop()
    found = rows.of("hall")
    far = [one.distance > 1 for one in found]
    assert [one.suspect for one in found].index("changed") == far.index(True) + 2
    for text in ("hall: the picture is changed", "hall: the picture is true again"):
        assert caplog.messages.count(text) == 1


def striped(left, light):
    """Stripes on noise."""
    pixels = np.random.default_rng(light).integers(80, 100, (48, 64, 3), dtype=np.uint8)
    pixels[:, left::10] += 80 + 5 * light
    return Image.fromarray(pixels)


def test_a_distance_that_cannot_be_measured_costs_no_reading(
    watching, camera, counter, monkeypatch, caplog
):
    def fail(*_, **__):
        raise ZeroDivisionError

    monkeypatch.setattr(counter, "distance", fail)
    _, rows = watching(f"hall={camera.url}")
    rows.wait_for(3, "hall")
    assert {one.distance for one in rows.of("hall")} == {None}
    assert caplog.messages.count("hall: a frame's distance is not known") == 1


def test_a_stream_may_change_its_size_and_a_refused_frame_costs_only_its_reading(
    watching, counter, count_with
):
    counted = set()

    def refuse_wide(images):
        if any(image.width > 64 for image in images):
            raise RuntimeError("out of memory")
        counted.update(image.size for image in images)
        return counter.count_in(images, None)

    count_with(refuse_wide, counter)
    bad = MjpegCamera([frame(1, (80, 60))])
    good = MjpegCamera([frame(seed, size) for seed in range(3) for size in ((64, 48), (48, 64))])
    _, rows = watching(f"bad={bad.url}", f"good={good.url}")
    rows.wait_for(3, "good")
    while len(counted) < 2:
        rows.wait_for(1, "good")
    for camera in (bad, good):
        camera.stop()
    assert not rows.of("bad")


def test_files_are_played_at_their_own_speed_and_then_it_ends(
    watching, count_with, counter, short_clip
):
    """Counting takes no time here, so that a busy machine counts as many frames."""
    [answer] = counter.count([frame(1)])
    count_with(lambda images: [answer] * len(images), counter)
    start = time.monotonic()
    watch, rows = watching(f"a={short_clip}", f"b={short_clip}")
    assert watch.ended.wait(20)
    assert time.monotonic() - start > 1.8  # two seconds of video
    for name in ("a", "b"):
        times = [one.time.timestamp() for one in rows.of(name)]
        assert 5 <= len(times) <= 21
        assert times[-1] - times[0] > 1.4
    assert [reader.error for reader in watch.readers.values()] == [None, None]


def test_alerts_and_rows_are_in_the_metrics(counter, short_clip):
    (rule,) = parse_alerts(["hall > 3 for 0s"], ["hall"])
    rows = Rows([Alert(rule, EVERY)])
    watch = CameraWatch(counter, parse_cameras([f"hall={short_clip}"], True), Pace(), rows)
    watch.start()
    assert samples(watch)["llava_dvc_alert", "hall > 3 for 0s"] == 0
    rows.alerts[0].on, rows.lost_rows = True, 7
    found = samples(watch)
    assert (found["llava_dvc_alert", "hall > 3 for 0s"], found["llava_dvc_lost_rows_total",]) == (
        1, 7,
    )  # fmt: skip
    watch.close()
