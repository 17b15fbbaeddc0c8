"""Metadata of any kind changes no pixel, apart from the orientation, and stops no stage."""

import random
import struct
import zlib
from collections.abc import Callable
from contextlib import suppress
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from llava_dvc.data.images import ImageError, decode_image, stored_bytes, upright_rgb
from llava_dvc.dataset import FEATURES
from tests.conftest import frame
from tests.data.test_images import as_loaded, saved, turned

JPEG, PNG, WEBP = saved(frame(3), "JPEG"), saved(frame(3), "PNG"), saved(frame(3), "WEBP")
XMP = b"http://ns.adobe.com/xap/1.0/\0"


def exif(orientation: int = 6, **options: object) -> bytes:
    tags = Image.Exif()
    tags[0x0112] = orientation
    tags[0x010F] = "maker"
    tags[0x011A] = 72.0
    return tags.tobytes(**options)


def ifd(kind: int, count: int, value: bytes) -> bytes:
    """EXIF whose only tag is an orientation of this type."""
    return b"Exif\0\0MM\0*\0\0\0\x08\0\x01" + struct.pack(">HHL", 0x0112, kind, count) + value


def in_jpeg(marker: int, body: bytes) -> bytes:
    """A JPEG with one more segment after its start."""
    return JPEG[:2] + bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body + JPEG[2:]


def in_png(kind: bytes, body: bytes, at: int = 33) -> bytes:
    """A PNG with one more chunk, after its header or at `at`."""
    check = struct.pack(">I", zlib.crc32(kind + body))
    return PNG[:at] + struct.pack(">I", len(body)) + kind + body + check + PNG[at:]


def in_webp(kind: bytes, body: bytes) -> bytes:
    """A WebP with one more chunk at its end."""
    content = saved(frame(3), "WEBP", exif=exif(1))
    start = content.index(b"EXIF")
    body = kind + struct.pack("<I", len(body)) + body + bytes(len(body) % 2)
    content = content[:start] + body
    return content[:4] + struct.pack("<I", len(content) - 8) + content[8:]


JUNK = {
    "exif in a JPEG": in_jpeg(0xE1, b"Exif\0\0" + b"junk" * 9),
    "short exif in a JPEG": in_jpeg(0xE1, b"Exif\0\0"),
    "cut exif in a JPEG": in_jpeg(0xE1, exif()[:24]),
    "exif that ends in the void": in_jpeg(0xE1, b"Exif\0\0MM\0*\xff\xff\xff\xf0"),
    "an orientation of text": in_jpeg(0xE1, ifd(2, 4, b"six\0" + bytes(4))),
    "an orientation of bytes": in_jpeg(0xE1, ifd(7, 4, b"\6\6\6\6" + bytes(4))),
    "an orientation of 0 over 0": in_jpeg(0xE1, ifd(5, 1, b"\0\0\0\x1a" + bytes(12))),
    "an orientation of 99": in_jpeg(0xE1, exif(99)),
    "XMP in a JPEG": in_jpeg(0xE1, XMP + b'\xff\xfe tiff:Orientation="x'),
    "ICC in a JPEG": in_jpeg(0xE2, b"ICC_PROFILE\0\7\1junk"),
    "Photoshop in a JPEG": in_jpeg(0xED, b"Photoshop 3.0\08BIM\x04\x04\xffjunk"),
    "MPF in a JPEG": in_jpeg(0xE2, b"MPF\0junk"),
    "a comment in a JPEG": in_jpeg(0xFE, bytes(range(256))),
    "eXIf in a PNG": in_png(b"eXIf", b"junk" * 9),
    "eXIf at the end of a PNG": in_png(b"eXIf", b"junk" * 9, len(PNG) - 12),
    "empty eXIf in a PNG": in_png(b"eXIf", b""),
    "cut eXIf in a PNG": in_png(b"eXIf", exif()[6:24]),
    "hex that is none in a PNG": in_png(b"tEXt", b"Raw profile type exif\0\nexif\n 9\nxyz"),
    "XMP in a PNG": in_png(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0tiff:Orientation=x"),
    "ICC in a PNG": in_png(b"iCCP", b"name\0\0junk"),
    "text in a PNG": in_png(b"zTXt", b"Comment\0\0" + zlib.compress(b"fine")),
    "exif in a WebP": in_webp(b"EXIF", b"junk" * 9),
    "XMP in a WebP": in_webp(b"XMP ", b"\xff\xfetiff:Orientation=x"),
}


def upright(content: bytes) -> Image.Image:
    original = {b"\xff": JPEG, b"\x89": PNG, b"R": WEBP}
    return decode_image(next(o for start, o in original.items() if content.startswith(start)))


@pytest.mark.parametrize("name", JUNK)
def test_junk_in_metadata_is_ignored(name, tmp_path):
    seen = decode_image(JUNK[name])
    assert np.array_equal(seen, upright(JUNK[name]))
    assert seen.info == {}
    assert np.array_equal(upright_rgb(seen), seen)
    assert np.array_equal(as_loaded(stored_bytes(JUNK[name]), tmp_path), seen)


def test_only_junk_that_stops_datasets_is_stored_as_a_png():
    stored = stored_bytes(JUNK["eXIf in a PNG"])
    assert stored != JUNK["eXIf in a PNG"]
    assert np.array_equal(decode_image(stored), decode_image(PNG))
    assert stored_bytes(JUNK["exif in a JPEG"]) == JUNK["exif in a JPEG"]


def test_a_good_orientation_with_junk_beside_it_still_turns(tmp_path):
    tags = Image.Exif()
    tags[0x0112] = 6
    tags[0x9286] = b"\xff" * 40  # a comment whose encoding is unknown
    content = saved(frame(3), "JPEG", exif=tags, icc_profile=b"junk")
    assert decode_image(content).size == (48, 64)
    assert np.array_equal(as_loaded(stored_bytes(content), tmp_path), decode_image(content))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_pillow_image_is_turned_once(orientation):
    image = Image.open(BytesIO(turned(orientation)))
    seen = upright_rgb(image)
    assert np.array_equal(seen, decode_image(turned(orientation)))
    assert np.array_equal(upright_rgb(seen), seen)
    assert image.getexif()[0x0112] == orientation


def test_a_pillow_image_that_cannot_be_loaded_is_an_image_error():
    with pytest.raises(ImageError, match="cannot be decoded"):
        upright_rgb(Image.open(BytesIO(JPEG[:-300])))


# --- a fuzzer ---------------------------------------------------------------------------------

HEADS = [b"", b"Exif\0\0", XMP, b"ICC_PROFILE\0", b"MPF\0", b"Photoshop 3.0\0", b"Adobe", b"JFIF\0"]
SEGMENTS = [0xE0, 0xE1, 0xE1, 0xE2, 0xED, 0xEE, 0xEF, 0xFE]
CHUNKS = b"eXIf tEXt zTXt iTXt iCCP pHYs gAMA cHRM sRGB tIME tRNS sBIT bKGD acTL".split()
TEXTS = [b"", b"Raw profile type exif\0", b"XML:com.adobe.xmp\0\0\0\0\0", b"\0\0"]


def body(rng: random.Random) -> bytes:
    """Random bytes, or EXIF with some bytes changed or its end cut off."""
    if rng.random() < 0.3:
        return rng.randbytes(rng.randrange(60))
    changed = bytearray(exif())[rng.choice([0, 6]) :]
    for _ in range(rng.randrange(5)):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed[: rng.randrange(len(changed) + 1) if rng.random() < 0.3 else None])


def fuzzed_jpeg(rng: random.Random) -> bytes:
    return in_jpeg(rng.choice(SEGMENTS), rng.choice(HEADS) + body(rng))


def fuzzed_png(rng: random.Random) -> bytes:
    kind = rng.choice(CHUNKS)
    text = b"" if kind == b"eXIf" else rng.choice(TEXTS)
    content = text + body(rng)
    if kind == b"zTXt":
        content = b"Raw profile type exif\0\0" + zlib.compress(b"\nexif\n 9\n" + content)
    return in_png(kind, content, rng.choice([33, len(PNG) - 12]))


def fuzzed_webp(rng: random.Random) -> bytes:
    return in_webp(rng.choice([b"EXIF", b"XMP ", b"ICCP", b"ABCD"]), body(rng))


def fuzzed_tiff(rng: random.Random) -> bytes:
    content = bytearray(saved(frame(3), "TIFF", exif=exif()))
    start = int.from_bytes(content[4:8], "little")
    for _ in range(rng.randrange(1, 4)):
        content[rng.randrange(start, len(content))] = rng.randrange(256)
    return bytes(content)


def decoded(content: bytes) -> Image.Image | None:
    """The picture, or None if it is refused."""
    with suppress(ImageError):
        return decode_image(content)
    return None


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("make", [fuzzed_jpeg, fuzzed_png, fuzzed_webp, fuzzed_tiff])
def test_no_metadata_ends_in_another_exception(make: Callable[[random.Random], bytes]):
    rng = random.Random(make.__name__)
    pairs = [(content, decoded(content)) for content in (make(rng) for _ in range(250))]
    accepted = [(content, seen) for content, seen in pairs if seen]
    assert len(accepted) > 100
    for content, seen in accepted:
        assert np.array_equal(upright_rgb(seen), seen)
        loaded = FEATURES["image"].decode_example({"path": None, "bytes": stored_bytes(content)})
        assert np.array_equal(loaded, seen)
