"""Notices when the frames of a stream come faster than they can be decoded."""

import logging

WINDOW = 10.0
"""Seconds that are looked at together. A segment of HLS comes faster, and then a pause."""
IDLE = 0.05
"""Share of the time that is waited for packets, at least, if decoding keeps up."""
FIRST_WAIT, LONGEST_WAIT = 60.0, 1800.0
"""Seconds after which all frames are tried again. The wait doubles each time in vain."""

logger = logging.getLogger(__name__)


class DecodingLoad:
    """Of one camera, also when it is connected again. Its times are monotonic, in seconds."""

    def __init__(self, camera: str) -> None:
        self.only_keys = False
        """Whether only key frames, which need no other frame, should be decoded."""
        self.skipped = 0
        """Frames that were not decoded."""
        self._camera = camera
        self._wait, self._try_at = FIRST_WAIT, 0.0
        self.restart()

    def restart(self) -> None:
        """A new connection: its clock is another one."""
        self._began: tuple[float, float] | None = None
        """When the window began, and the time of its first packet in the stream."""
        self._waited = 0.0

    def add_packet(self, now: float, waited: float, seconds: float) -> None:
        """A packet came after `waited` seconds. `seconds` is its time by the stream's clock."""
        self._waited += waited
        if self._began is None:
            self._began, self._waited = (now, seconds), 0.0
            return
        passed, played = now - self._began[0], seconds - self._began[1]
        if passed >= WINDOW:
            # A clock that jumps says nothing. Nor does a thread that waits: it has decoded all.
            self._judge(now, self._waited < IDLE * passed and 0 <= played < passed)
            self._began, self._waited = (now, seconds), 0.0

    def _judge(self, now: float, is_behind: bool) -> None:
        if is_behind and not self.only_keys:
            self.only_keys, self._try_at = True, now + self._wait
            self._wait = min(2 * self._wait, LONGEST_WAIT)
            logger.warning("%s: decoding is too slow; only key frames are decoded", self._camera)
        elif self.only_keys and not is_behind and now >= self._try_at:
            self.only_keys, self._try_at = False, now + self._wait
            logger.warning("%s: all frames are decoded again", self._camera)
        elif not self.only_keys and now >= self._try_at:
            self._wait = FIRST_WAIT
