"""A real HTTP server that gets events, and events."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from llava_dvc.serving.watch.alerts import Alert, parse_alerts
from llava_dvc.serving.watch.webhook import SIGNATURE
from tests.serving.watch.readings import reading


class Receiver(ThreadingHTTPServer):
    """Answers with `statuses`, then with 200; keeps what it accepted."""

    def __init__(self, statuses=()):
        super().__init__(("127.0.0.1", 0), Receipt)
        self.statuses = list(statuses)
        self.attempts = 0
        self.accepted = []
        self.changed = threading.Condition()
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def wait_for(self, events=0, attempts=0):
        with self.changed:
            done = lambda: len(self.accepted) >= events and self.attempts >= attempts  # noqa: E731
            assert self.changed.wait_for(done, 10)


class Receipt(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        with self.server.changed:
            status = self.server.statuses.pop(0) if self.server.statuses else 200
            self.server.attempts += 1
            if status == 200:
                self.server.accepted.append((body, self.headers[SIGNATURE]))
            self.server.changed.notify_all()
        self.send_response(status)
        if status == 302:
            self.send_header("Location", "/elsewhere")
        self.end_headers()

    def log_message(self, *_):
        pass


def events():
    """Once on, once off."""
    (rule,) = parse_alerts(["hall > 40 for 4s"], ["hall"])
    alert = Alert(rule, 2.0)
    counts = [50, 50, 50, 20, 20, 20]
    found = [alert.step(reading(2 * place, count)) for place, count in enumerate(counts)]
    return list(filter(None, found))
