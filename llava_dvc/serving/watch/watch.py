"""`llava-dvc watch`: counts the people in live cameras until SIGTERM or Ctrl-C."""

import logging
import sys
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

from llava_dvc.errors import UserError
from llava_dvc.recipe import Recipe, adapter_sha256
from llava_dvc.serving.adapter_source import find_adapter
from llava_dvc.serving.guards.browser_guard import check_allowed_hosts, own_hosts
from llava_dvc.serving.server import GracefulServer, bind_socket, load_warm, server_config
from llava_dvc.serving.watch.alerts import Alert, parse_alerts
from llava_dvc.serving.watch.camera.address import parse_cameras
from llava_dvc.serving.watch.camera_watch import CameraWatch
from llava_dvc.serving.watch.reading import ADAPTER_DIGITS
from llava_dvc.serving.watch.reading_log import ReadingLog
from llava_dvc.serving.watch.reading_sink import ReadingSink
from llava_dvc.serving.watch.watch_app import build_watch_app
from llava_dvc.serving.watch.watch_options import Pace, Watched, WatchOutputs, WatchServer

logger = logging.getLogger(__name__)


def watch_cameras(
    watched: Watched,
    adapter: str | Path,
    pace: Pace,
    outputs: WatchOutputs,
    place: WatchServer,
) -> None:
    """Watches all sources until SIGTERM or Ctrl-C, or until all files are played.

    Raises UserError for an option or an adapter that cannot be used, before the first row, and at
    the end for a file that could not be read.
    """
    _log_to_stderr()
    pace.check()
    check_allowed_hosts(place.allowed_hosts)
    cameras = parse_cameras(watched.sources, watched.realtime)
    folder = find_adapter(adapter)
    names = [camera.name for camera in cameras]
    zones = watched.zone_names(Recipe.read(folder), names)
    rules = parse_alerts(outputs.alerts, names, zones)
    receivers = outputs.receivers()
    log = ReadingLog(outputs.folder, outputs.row_format) if outputs.folder else None
    listener = bind_socket(place.host, place.port)  # before the model is loaded, which takes long
    counter = load_warm(folder)
    if counter.scenes is None:
        logger.warning(
            "the adapter does not know how its training frames look: no picture is "
            "marked as changed. `dvc repro` makes one that does."
        )
    alerts = [Alert(rule, pace.every) for rule in rules]
    digits = adapter_sha256(folder)[:ADAPTER_DIGITS]
    sink = ReadingSink(log, outputs.row_format, alerts, receivers, digits)
    watch = CameraWatch(counter, cameras, pace, sink, zones, place.show_frames)
    hosts = own_hosts(place.host, listener.getsockname()[0])
    app = build_watch_app(watch, hosts, place.allowed_hosts, place.show_frames)
    server = GracefulServer(server_config(app), sys.stderr)
    watch.on_end = partial(setattr, server, "should_exit", True)
    with suppress(KeyboardInterrupt):  # Uvicorn raises it again after the shutdown
        server.run(sockets=[listener])
    _raise_failures(watch)


def _raise_failures(watch: CameraWatch) -> None:
    """Raises why rows could not be written, or which files could not be read."""
    if watch.failure:
        raise watch.failure
    if errors := [reader.error for reader in watch.readers.values() if reader.error]:
        raise UserError("\n".join(errors))


def _log_to_stderr() -> None:
    """Logs what happens to the cameras, with the time in UTC."""
    handler = logging.StreamHandler()
    handler.formatter = logging.Formatter("%(asctime)sZ %(message)s", "%Y-%m-%dT%H:%M:%S")
    handler.formatter.converter = time.gmtime
    package = logging.getLogger("llava_dvc")
    package.setLevel(logging.INFO)
    package.handlers = [handler]
