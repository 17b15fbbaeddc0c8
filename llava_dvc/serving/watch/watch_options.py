"""The options of `llava-dvc watch`."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from llava_dvc.recipe import Recipe
from llava_dvc.serving.counter import zone_in_recipe
from llava_dvc.serving.sources import require_seconds
from llava_dvc.serving.watch.camera.forward_smoothing import ForwardSmoothing
from llava_dvc.serving.watch.delivery import EventReceiver
from llava_dvc.serving.watch.notifier import Notifier
from llava_dvc.serving.watch.reading import ReadingFormat
from llava_dvc.serving.watch.webhook import Webhook


@dataclass(frozen=True)
class Watched:
    """What is watched."""

    sources: Sequence[str]
    realtime: bool = False
    """Files are played at their own speed."""
    zones: Sequence[str] = ()
    """Names of zones that the adapter knows; without one, that of its training."""

    def zone_names(self, recipe: Recipe, cameras: Sequence[str]) -> list[str | None]:
        """Returns the name of each zone once. None is the whole frame.

        Raises UserError when a zone is not known, or has no outline for one of the cameras.
        """
        asked = self.zones or (None,)
        found = [zone_in_recipe(recipe, name, camera) for name in asked for camera in cameras]
        return list(dict.fromkeys(zone and zone.name for zone in found))


@dataclass(frozen=True)
class Pace:
    """How the cameras are read. All times are in seconds."""

    every: float = 2.0
    """Between two readings of a camera."""
    frame_seconds: float | None = None
    """Between two neighbouring training frames; None for `every`."""
    stall: float = 10.0
    """Without a picture, after which a camera is connected again."""
    transport: str = "tcp"
    """Of RTSP: tcp or udp."""

    def check(self) -> None:
        """Raises UserError for a time that is none."""
        values = {
            "--every": self.every, "--frame-interval": self.frame_seconds, "--stall": self.stall,
        }  # fmt: skip
        for option, value in values.items():
            if value is not None:
                require_seconds(option, value)

    def smoothing(self, recipe: Recipe) -> ForwardSmoothing | None:
        """Returns the smoothing of one camera; None if the adapter has none."""
        if recipe.smoothing is None:
            return None
        return ForwardSmoothing(recipe, self.every, self.frame_seconds or self.every)


@dataclass(frozen=True)
class WatchOutputs:
    """Where rows and events go."""

    folder: Path | None = None
    """Of the rows; None is standard output."""
    row_format: ReadingFormat = "jsonl"
    alerts: Sequence[str] = ()
    webhook: str | None = None
    notify: Sequence[str] = field(default=(), repr=False)
    """Addresses of apprise. They hold secrets."""

    def receivers(self) -> list[EventReceiver]:
        """Returns the receivers of events. Raises UserError for one that cannot be used."""
        notifiers = [Notifier(url, number) for number, url in enumerate(self.notify, 1)]
        return [*notifiers, *([Webhook(self.webhook)] if self.webhook else [])]


@dataclass(frozen=True)
class WatchServer:
    """Where metrics and page are, and if the page shows pictures."""

    host: str = "127.0.0.1"
    port: int = 8001
    allowed_hosts: Sequence[str] = ()
    show_frames: bool = False
