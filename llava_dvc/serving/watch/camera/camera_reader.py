"""The thread that keeps one camera connected and decodes its frames."""

import errno
import logging
import threading

import av

from llava_dvc.data.images import ImageError
from llava_dvc.errors import UserError
from llava_dvc.serving.watch.camera.address import CameraAddress
from llava_dvc.serving.watch.camera.camera_state import CameraState
from llava_dvc.serving.watch.camera.decoding_load import DecodingLoad
from llava_dvc.serving.watch.camera.live_video import LiveFrame, StreamStalled, read_camera
from llava_dvc.serving.watch.camera.newest_frame import NewestFrame
from llava_dvc.serving.watch.camera.pacing import Backoff

ENDED = "the stream ended"

logger = logging.getLogger(__name__)


class CameraReader:
    """Reads a camera until `stop` is set. A file is read once."""

    def __init__(
        self,
        camera: CameraAddress,
        state: CameraState,
        transport: str,
        stall: float,
        stop: threading.Event,
    ) -> None:
        self.camera, self.state = camera, state
        self.newest: NewestFrame[LiveFrame] = NewestFrame()
        self.load = DecodingLoad(camera.name)
        self.error: str | None = None
        """Why a file could not be read to its end."""
        self._transport, self._stall, self._stop = transport, stall, stop
        self._thread = threading.Thread(target=self._read, name=f"read {camera.name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def _read(self) -> None:
        """Reads, waits and reads again."""
        backoff = Backoff()
        while not self._stop.is_set():
            live, reason = self._read_once()
            if self.camera.kind == "file":
                self.error = None if reason == ENDED else f"{self.camera.name}: {reason}"
                self.state.lose(reason, "ended")
                break
            wait = backoff.wait_after(live)
            self._report_loss(reason, wait, live)
            self._stop.wait(wait)
            self.state.count_attempt()
        self.newest.close()

    def _read_once(self) -> tuple[float, str]:
        """Returns for how many seconds frames came, and why no more come."""
        first = last = None
        reason = ENDED
        try:
            for frame in read_camera(self.camera, self._transport, self._stall, self.load):
                if first is None:
                    first = frame.came
                    self._report_start(frame)
                last = frame.came
                self.state.add_frame(frame.came)
                self.newest.put(frame)
                if self._stop.is_set():
                    break
        except Exception as error:  # whatever a camera sends, the others go on
            reason = read_failure(error, self._stall)
        return (last or 0.0) - (first or 0.0), reason

    def _report_start(self, frame: LiveFrame) -> None:
        size = f"{frame.frame.width}x{frame.frame.height}"
        logger.info("%s: live, %s", self.camera.name, size)

    def _report_loss(self, reason: str, wait: float, live: float) -> None:
        """Logs the first failure, and those with another reason."""
        if live or reason != self.state.reason:
            logger.warning("%s: %s; next attempt in %g s", self.camera.name, reason, wait)
        self.state.lose(reason)


def read_failure(error: Exception, stall: float) -> str:
    """Returns why a camera cannot be read, in words that hold no address."""
    if isinstance(error, StreamStalled | av.ExitError):
        return f"no picture for {stall:g} s"
    if isinstance(error, ImageError):
        return f"its picture {error}"
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError) and error.errno == errno.EIO:
        return "the connection was lost"
    return getattr(error, "strerror", None) or type(error).__name__
