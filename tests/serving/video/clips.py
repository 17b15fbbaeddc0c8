"""Clips that the tests draw themselves."""

from fractions import Fraction

import av
from PIL import Image, ImageDraw

SIZE = 160, 120
RATE = 25
TICKS = Fraction(1, 90_000)


def corners(size=SIZE):
    """A picture whose corners differ: red, green, blue and white from top left, clockwise."""
    image = Image.new("RGB", size, (40, 40, 40))
    width, height = size[0] // 2, size[1] // 2
    for colour, at in zip(
        [(220, 30, 30), (30, 200, 30), (30, 30, 220), (230, 230, 230)],
        [(0, 0), (width, 0), (width, height), (0, height)],
        strict=True,
    ):
        image.paste(colour, (*at, at[0] + width, at[1] + height))
    return image


def moving(count, size=SIZE):
    """Pictures in which discs move over a background."""
    for index in range(count):
        image = Image.new("RGB", size, (90, 100, 110))
        pen = ImageDraw.Draw(image)
        for disc in range(6):
            x, y = (index * (disc + 2) + disc * 30) % size[0], (disc * 20 + index) % size[1]
            pen.ellipse((x, y, x + 16, y + 22), fill=(disc * 40, 255 - disc * 40, 128))
        yield image


def write_clip(
    path, images, codec="libx264", set_up=lambda stream: None, stamp=None, kind=None, gop=25
):
    """Writes `images` at RATE frames a second, or with `stamp(index)` in seconds for each."""
    with av.open(str(path), "w", format=kind) as out:
        fast = {"libx264": {"preset": "ultrafast"}, "libvpx": {"deadline": "realtime"}}
        options = fast.get(codec, {})
        stream = out.add_stream(codec, rate=RATE, options=options)
        stream.width, stream.height = SIZE
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.codec_context.gop_size = gop
        stream.codec_context.max_b_frames = 0
        if stamp:
            stream.codec_context.time_base = TICKS
        set_up(stream)
        for index, image in enumerate(images):
            frame = image if isinstance(image, av.VideoFrame) else av.VideoFrame.from_image(image)
            if stamp:
                frame.pts, frame.time_base = round(stamp(index) / TICKS), TICKS
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return path


def copy_packets(source, path, change, kind=None):
    """Copies the packets of a clip. `change(number, packet)` returns False to leave one out."""
    with av.open(str(source)) as clip, av.open(str(path), "w", format=kind) as out:
        stream = out.add_stream_from_template(clip.streams.video[0])
        for number, packet in enumerate(clip.demux(video=0)):
            if packet.dts is not None and change(number, packet) is not False:
                packet.stream = stream
                out.mux(packet)
    return path
