"""What a file is. Its bytes decide; its suffix decides only if the bytes are of no known kind."""

from pathlib import Path
from typing import Literal

import av
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from llava_dvc.data.images import is_picture_name

VIDEO_SUFFIXES = {".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".webm", ".wmv"}
MOTION_JPEG_SUFFIXES = {".mjpeg", ".mjpg"}
"""Such a stream is JPEG files in a row: its first bytes are those of a picture."""

VIDEO_FORMATS = (
    "mov,matroska,avi,mpegts,mpeg,mpegvideo,asf,flv,ogg,mxf,rm,nut,wtv,ivf,dv,dhav,yuv4mpegpipe,"
    "h264,hevc,vvc,m4v,h261,h263,vc1,av1,obu,cavsvideo,mjpeg,mpjpeg,gxf,ivr,nsv,nuv,mtv,lxf,pva,ty"
)
"""libav's formats that hold a video themselves. Others read text, or name other files and URLs."""

PICTURE_STARTS = (
    b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"GIF8",
    b"\xff\x0a", b"\0\0\0\x0cJXL ",
)  # fmt: skip
STILL_BRANDS = {b"avif", b"heic", b"heim", b"heis", b"heix", b"mif1"}
"""Pictures in the boxes of an MP4 file. libav would open each of their tiles as a video."""

FileKind = Literal["image", "video"]


def file_kind(path: Path) -> FileKind | None:
    """Returns what `path` holds; None for neither a picture nor a video."""
    suffix = path.suffix.lower()
    try:
        with path.open("rb") as file:
            start = file.read(16)
    except OSError:
        start = b""
    if _starts_picture(start):
        return "video" if suffix in MOTION_JPEG_SUFFIXES else "image"
    if start and _holds_video(path):
        return "video"
    if is_picture_name(path):
        return "image"
    return "video" if suffix in VIDEO_SUFFIXES else None


def open_video(path: Path) -> InputContainer:
    """Opens a video file. Raises av.FFmpegError or OSError."""
    # Without "file:", libav takes the start of a name like `12:30.mp4` for a protocol.
    options = {"format_whitelist": VIDEO_FORMATS, "protocol_whitelist": "file"}
    return av.open(f"file:{path}", options=options)


def video_streams(container: InputContainer) -> list[VideoStream]:
    """Returns the streams of moving pictures: not the cover of a song."""
    return [
        stream
        for stream in container.streams.video
        if not stream.disposition & Disposition.attached_pic
    ]


def _starts_picture(start: bytes) -> bool:
    return (
        start.startswith(PICTURE_STARTS)
        or (start[:2] == b"BM" and start[6:10] == bytes(4))
        or (start[:4] == b"RIFF" and start[8:12] == b"WEBP")
        or (start[4:8] == b"ftyp" and start[8:12] in STILL_BRANDS)
    )


def _holds_video(path: Path) -> bool:
    try:
        with open_video(path) as container:
            return any(stream.width for stream in video_streams(container))
    except (av.FFmpegError, OSError):
        return False
