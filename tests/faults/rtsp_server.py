"""An RTSP server. The system's Python runs it: GStreamer's bindings are not on PyPI.

python3 rtsp_server.py PORT CLIP... serves each clip as /0, /1 and so on, from its start to every
client, at its own speed.
"""

import sys

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402

PAYLOADS = {".h264.mp4": "h264parse ! rtph264pay", ".h265.mp4": "h265parse ! rtph265pay"}


def main() -> None:
    Gst.init(None)
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(sys.argv[1])
    for number, clip in enumerate(sys.argv[2:]):
        payload = next(name for suffix, name in PAYLOADS.items() if clip.endswith(suffix))
        factory = GstRtspServer.RTSPMediaFactory()
        factory.set_launch(
            f'( filesrc location="{clip}" ! qtdemux ! {payload} name=pay0 pt=96 config-interval=1 )'
        )
        server.get_mount_points().add_factory(f"/{number}", factory)
    server.attach(None)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    GLib.MainLoop().run()


main()
