"""Where readings go: the rows, and the alerts."""

import logging
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from llava_dvc.serving.row_writer import print_row
from llava_dvc.serving.watch.alerts import Alert
from llava_dvc.serving.watch.delivery import EventReceiver
from llava_dvc.serving.watch.reading import Reading, ReadingFormat, header_line, reading_line
from llava_dvc.serving.watch.reading_log import ReadingLog

logger = logging.getLogger(__name__)


class ReadingSink:
    """Writes the row of each reading and gives it to the alerts. Safe to share between threads."""

    def __init__(
        self,
        log: ReadingLog | None,
        row_format: ReadingFormat,
        alerts: Sequence[Alert],
        receivers: Sequence[EventReceiver],
        adapter: str | None = None,
    ) -> None:
        """Without a `log`, rows go to standard output. `receivers` get the events of the alerts.
        Each row names the `adapter`.
        """
        self.alerts = alerts
        self.lost_rows = 0
        self._log, self._format, self._receivers = log, row_format, receivers
        self._adapter = adapter
        self._lock = threading.Lock()
        self._failing = False
        if log is None and (header := header_line(row_format)):
            print_row(header.rstrip("\n"))

    def take(self, reading: Reading) -> None:
        """Raises BrokenPipeError or UserError when standard output cannot be written."""
        reading = replace(reading, adapter=self._adapter)
        with self._lock:
            if self._log is None:
                print_row(reading_line(reading, self._format).rstrip("\n"))
            else:
                self._write(self._log, reading)
            for alert in self.alerts:
                if alert.rule.is_of(reading) and (event := alert.step(reading)):
                    logger.warning("alert %s: %s", event.state, event.rule.text)
                    for receiver in self._receivers:
                        receiver.send(event)

    def close(self) -> None:
        with self._lock:
            if self._log:
                self._log.close()
        with ThreadPoolExecutor(max(1, len(self._receivers))) as pool:  # all wait together
            list(pool.map(lambda receiver: receiver.close(), self._receivers))

    def _write(self, log: ReadingLog, reading: Reading) -> None:
        """A full disk loses rows, but ends neither metrics nor alerts."""
        try:
            log.write(reading)
        except OSError as error:
            self.lost_rows += 1
            if not self._failing:
                logger.error("--out: %s: rows are lost until there is room", error.strerror)
            self._failing = True
            return
        if self._failing:
            logger.warning("--out: rows are written again; %d are lost in all", self.lost_rows)
        self._failing = False
