"""Image files that cost much to decode, and a seeded fuzzer over such files."""

import io
import random
import struct
import zlib
from collections.abc import Iterator

from PIL import Image

from tests.conftest import frame
from tests.serving.requests import encoded


def progressive(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", progressive=True)
    return file.getvalue()


def many_scans(size: tuple[int, int], scans: int) -> bytes:
    """A progressive JPEG of one colour. Its last scan, some 100 bytes, is there `scans` times."""
    whole = progressive(Image.new("L", size, 90))
    last = whole.rindex(b"\xff\xda")
    return whole[:last] + whole[last:-2] * scans + b"\xff\xd9"


def png(*chunks: tuple[bytes, bytes], size: tuple[int, int] = (64, 64)) -> bytes:
    """A grey PNG with these chunks between its header and its end."""
    header = struct.pack(">IIBBBBB", *size, 8, 0, 0, 0, 0)
    parts = [b"\x89PNG\r\n\x1a\n"]
    for name, data in ((b"IHDR", header), *chunks, (b"IEND", b"")):
        parts.append(struct.pack(">I", len(data)) + name + data)
        parts.append(struct.pack(">I", zlib.crc32(name + data)))
    return b"".join(parts)


def tiny_tiles(side: int, tiles: int) -> bytes:
    """A TIFF of `side` x `side` pixels in tiles of one pixel, all at one place of the file."""
    entries = [
        (256, 3, 1, side), (257, 3, 1, side), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1),
        (277, 3, 1, 1), (322, 3, 1, 1), (323, 3, 1, 1),
        (324, 4, tiles, 200), (325, 4, tiles, 200 + 4 * tiles),
    ]  # fmt: skip
    folder = struct.pack("<H", len(entries)) + b"".join(
        struct.pack("<HHII", *entry) for entry in entries
    )
    head = (b"II*\0" + struct.pack("<I", 8) + folder + bytes(4)).ljust(200, b"\0")
    return head + struct.pack("<I", 8) * tiles + struct.pack("<I", 1) * tiles


def endless_tiff(folders: int) -> bytes:
    """A TIFF with a chain of many images."""
    file = io.BytesIO()
    Image.new("L", (16, 16)).save(file, "TIFF")
    content = bytearray(file.getvalue())
    start = struct.unpack_from("<I", content, 4)[0]
    count = struct.unpack_from("<H", content, start)[0]
    size = 2 + 12 * count + 4
    folder = bytes(content[start : start + size - 4])
    where = len(content)
    struct.pack_into("<I", content, start + size - 4, where)
    for _ in range(folders):
        where += size
        content += folder + struct.pack("<I", where)
    return bytes(content)


def costly_images() -> dict[str, bytes]:
    """Each cost a decoder in the service's own process many seconds, or much memory."""
    zeros = zlib.compress(bytes(20_000_000))
    pixels = zlib.compress(bytes(65 * 64))
    return {
        "scans": many_scans((640, 480), 20_000),
        "scans of a large frame": many_scans((2000, 2000), 95),
        "comments": b"\xff\xd8" + b"\xff\xfe\0\2" * 1_000_000,
        "restart markers": progressive(frame(3))[:-2] + b"\xff\xd0" * 2_000_000,
        "chunks": png(*[(b"tEXt", b"a\0b")] * 200_000, (b"IDAT", pixels)),
        "profile": png((b"iCCP", b"a\0\0" + zeros), (b"IDAT", pixels)),
        "text": png(*[(b"zTXt", b"a\0\0" + zeros)] * 20, (b"IDAT", pixels)),
        "tiles": tiny_tiles(1000, 1_000_000),
        "folders": endless_tiff(20_000),
    }


def mutated_images(seed: int, number: int) -> Iterator[bytes]:
    """Valid files of every format with bytes changed, removed, repeated or swapped."""
    dice = random.Random(seed)
    small = frame(4, (64, 48))
    tiff = io.BytesIO()
    small.save(tiff, "TIFF", compression="tiff_lzw")
    sources = [
        progressive(small), encoded(small), encoded(small, "PNG"), encoded(small, "WEBP"),
        encoded(small, "TIFF"), tiff.getvalue(), encoded(small, "BMP"),
    ]  # fmt: skip
    for index in range(number):
        content = bytearray(sources[index % len(sources)])
        head = 200 if dice.random() < 0.5 else len(content)  # headers are the richer half
        for _ in range(dice.randint(1, 8)):
            place = dice.randrange(min(head, len(content)))
            change = dice.randrange(4)
            if change == 0:
                content[place] = dice.choice((0, 1, 0x7F, 0x80, 0xFF, dice.randrange(256)))
            elif change == 1:
                del content[place : place + dice.randint(1, 9)]
            elif change == 2:
                content[place:place] = content[place : place + 40] * dice.randint(1, 50)
            else:
                content[place : place + 4] = struct.pack(
                    ">I", dice.choice((0, 1, 2**31, 2**32 - 1))
                )
        yield bytes(content)
