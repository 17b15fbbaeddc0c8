"""The frames of a camera as they come, read with libav."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from PIL.Image import Image

from llava_dvc.errors import UserError
from llava_dvc.serving.video.decoder import VideoDecoder
from llava_dvc.serving.video.file_kind import VIDEO_FORMATS, open_video, video_streams
from llava_dvc.serving.video.picture import PixelShape, TimedFrame, deinterlace, upright_image
from llava_dvc.serving.video.sampling import VideoReader, limit_pixels
from llava_dvc.serving.watch.camera.address import CameraAddress
from llava_dvc.serving.watch.camera.decoding_load import DecodingLoad

OPTIONS = {"fpsprobesize": "0", "analyzeduration": "1000000"}
"""The rate of a stream is not measured before its first frame is given."""
FORMATS: dict[str, str] = {"rtsp": "rtsp,sdp", "http": f"{VIDEO_FORMATS},hls"}


class StreamStalled(Exception):
    """The camera is connected, and sends no picture."""


@dataclass(frozen=True)
class LiveFrame:
    """A frame, and when it came."""

    frame: VideoFrame
    aspect: Fraction
    """Of a pixel."""
    time: datetime
    """When it came, in UTC. The clocks of cameras are often wrong."""
    came: float
    """The same by the monotonic clock."""

    def image(self) -> Image:
        return upright_image(self.frame, self.aspect)


def read_camera(
    camera: CameraAddress, transport: str, stall: float, load: DecodingLoad
) -> Iterator[LiveFrame]:
    """Yields the intact frames of a camera until its stream ends.

    `transport` is tcp or udp, for RTSP. If `load` finds decoding too slow, only key frames of a
    stream are given. Raises av.FFmpegError, OSError, UserError, or StreamStalled
    if no picture comes for `stall` seconds.
    """
    if camera.kind == "file":
        yield from _play_file(camera)
        return
    with _open_camera(camera, transport, stall) as container:
        stream = _first_stream(container)
        shape = PixelShape(stream)
        decoder = LiveDecoder(container, stream, stall, load)
        frames = (TimedFrame(time.monotonic(), frame, intact) for frame, intact in decoder)
        for timed in deinterlace(frames):
            if timed.intact:
                yield _live(timed.frame, shape)


class LiveDecoder(VideoDecoder):
    """Decodes a stream that has no end, as far as it can. Errors of reading end it."""

    def __init__(
        self, container: InputContainer, stream: VideoStream, stall: float, load: DecodingLoad
    ) -> None:
        super().__init__(container, stream)
        self._stall, self._load = stall, load
        load.restart()

    def _packets(self) -> Iterator["Packet[Any]"]:
        last = asked = time.monotonic()
        waited = 0.0
        # All streams: a camera may send sound and no picture, which is no read that takes long.
        for packet in self._container.demux():
            now = time.monotonic()
            waited += now - asked
            # Also at a packet: libav gives what is left of one when a read takes too long.
            if now - last > self._stall:
                raise StreamStalled
            if packet.stream is self._stream and packet.size:
                last = now
                if packet.dts is not None and packet.time_base:
                    self._load.add_packet(now, waited, float(packet.dts * packet.time_base))
                waited = 0.0
                self._choose_frames(packet)
                yield packet
            asked = time.monotonic()

    def _choose_frames(self, packet: "Packet[Any]") -> None:
        if self._load.only_keys:
            self._context.skip_frame = "NONKEY"
            self._load.skipped += not packet.is_keyframe
        elif packet.is_keyframe:  # the frames before it need some that were skipped
            self._context.skip_frame = "DEFAULT"

    def _decode(self, packet: "Packet[Any]", number: int) -> list[VideoFrame]:
        frames = super()._decode(packet, number)
        if self._load.only_keys and packet.is_keyframe and packet.size:
            # Else the decoder holds it back for frames between, which do not come.
            frames += self._context.decode(None)
            self._context.flush_buffers()
        return frames


def _play_file(camera: CameraAddress) -> Iterator[LiveFrame]:
    """Yields the frames of a file when they are due."""
    with open_video(Path(camera.url)) as container:
        reader = VideoReader(Path(camera.url), container)
        start = time.monotonic()
        for timed in reader:
            time.sleep(max(0.0, start + timed.seconds - time.monotonic()))
            yield _live(timed.frame, reader.shape)
        reader.check()


def _live(frame: VideoFrame, shape: PixelShape) -> LiveFrame:
    return LiveFrame(frame, shape.aspect(frame), datetime.now(UTC), time.monotonic())


def _open_camera(camera: CameraAddress, transport: str, stall: float) -> InputContainer:
    if camera.kind == "device":
        return av.open(camera.url, format="v4l2", timeout=stall)
    options = OPTIONS | {"format_whitelist": FORMATS[camera.kind]}
    if camera.kind == "rtsp":
        options["rtsp_transport"] = transport
    return av.open(camera.url, options=options, timeout=stall)


def _first_stream(container: InputContainer) -> VideoStream:
    """Raises UserError when there is no video that libav decodes."""
    for stream in video_streams(container):
        if stream.codec_context is not None:
            limit_pixels(stream)
            return stream
    raise UserError("it sends no video that libav decodes; choose H.264, H.265 or MJPEG")
