"""A real HTTP camera that sends MJPEG, and can be made to misbehave."""

import contextlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.conftest import frame
from tests.serving.requests import encoded

SECONDS = 0.02
"""Between two frames."""


class MjpegCamera(ThreadingHTTPServer):
    """Sends `pictures` again and again to every client, while `sending` is set."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, pictures=None, port=0):
        super().__init__(("127.0.0.1", port), MjpegStream)
        # Five would come again with every reading of a tenth of a second, and look frozen.
        self.pictures = pictures or [frame(seed) for seed in range(7)]
        self.sending = threading.Event()
        self.sending.set()
        self.closed = threading.Event()
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self):
        return f"http://user:geheim@127.0.0.1:{self.server_port}/live?token=geheim"

    def stop(self):
        """As if the power failed: the port is closed and all streams end."""
        self.closed.set()
        self.sending.set()
        self.shutdown()
        self.server_close()


class MjpegStream(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=edge")
        self.end_headers()
        with contextlib.suppress(OSError):
            while True:
                for picture in self.server.pictures:
                    self.server.sending.wait()
                    if self.server.closed.wait(SECONDS):
                        return
                    self.send_picture(encoded(picture))

    def send_picture(self, jpeg):
        head = f"--edge\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
        self.wfile.write(head.encode() + jpeg + b"\r\n")

    def log_message(self, *_):
        pass
