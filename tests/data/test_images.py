"""Images: which are accepted, that every stage sees the same pixels, which are refused."""

import struct
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from llava_dvc.data.images import (
    MAX_BYTES,
    ImageError,
    decode_image,
    read_image,
    read_image_bytes,
    stored_bytes,
)
from llava_dvc.dataset import load_split, write_split
from llava_dvc.errors import UserError
from tests.conftest import conversation, frame


def saved(image: Image.Image, format: str, **options: object) -> bytes:
    file = BytesIO()
    image.save(file, format=format, **options)
    return file.getvalue()


def turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(frame(3), "JPEG", exif=exif, quality=95)


def opaque(mode: str) -> Image.Image:
    image = frame(3).convert(mode)
    image.putalpha(255)
    return image


def palette_png(alpha: int) -> bytes:
    return saved(frame(3).quantize(16), "PNG", transparency=bytes([alpha] * 16))


ACCEPTED: dict[str, bytes] = {
    "plain": saved(frame(3), "JPEG"),
    "progressive": saved(frame(3), "JPEG", progressive=True),
    "grey": saved(frame(3).convert("L"), "JPEG"),
    "black and white": saved(frame(3).convert("1"), "PNG"),
    "cmyk": saved(frame(3).convert("CMYK"), "JPEG"),
    "palette": saved(frame(3).quantize(16), "PNG"),
    "opaque palette": palette_png(255),
    "opaque alpha": saved(opaque("RGB"), "PNG"),
    "opaque grey alpha": saved(opaque("L"), "PNG"),
    "bmp": saved(frame(3), "BMP"),
    "webp": saved(frame(3), "WEBP", lossless=True),
    "tiff": saved(frame(3), "TIFF"),
    "png called jpg": saved(frame(3), "PNG"),
    "phone's MPO": saved(frame(3), "MPO", save_all=True, append_images=[frame(4)]),
    "narrow": saved(Image.new("RGB", (16, 256)), "PNG"),
    **{f"exif {n}": turned(n) for n in range(1, 9)},
}


def as_loaded(content: bytes, folder: Path) -> Image.Image:
    """The image as train and evaluate read it from prepared/."""
    row = {
        "frame": "a.jpg",
        "image": {"path": "a.jpg", "bytes": content},
        "count": 3,
        "camera": None,
        "points": None,
        "messages": conversation(3),
    }
    write_split(folder / "train", [row])
    return load_split(folder, "train")[0]["image"]


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
@pytest.mark.parametrize("name", ACCEPTED)
def test_every_stage_sees_the_same_pixels(name, tmp_path):
    content = ACCEPTED[name]
    assert stored_bytes(content) == content
    seen = decode_image(content)
    assert seen.mode == "RGB"
    loaded = as_loaded(content, tmp_path)
    assert (loaded.mode, loaded.size) == (seen.mode, seen.size)
    assert np.array_equal(loaded, seen)
    (tmp_path / "a.jpg").write_bytes(content)
    assert np.array_equal(read_image(tmp_path / "a.jpg"), seen)


@pytest.mark.parametrize("orientation", range(2, 9))
def test_a_turned_frame_stands_upright(orientation):
    stored = Image.open(BytesIO(turned(orientation)))
    assert not np.array_equal(decode_image(turned(orientation)), stored)
    assert np.array_equal(decode_image(turned(orientation)), ImageOps.exif_transpose(stored))


@pytest.mark.parametrize("name", ["palette", "opaque palette", "opaque alpha", "png called jpg"])
def test_colours_are_kept(name):
    with Image.open(BytesIO(ACCEPTED[name])) as image:
        assert np.array_equal(
            decode_image(ACCEPTED[name]), np.array(image.convert("RGBA"))[:, :, :3]
        )


def test_grey_is_grey():
    pixels = np.array(decode_image(ACCEPTED["grey"]))
    assert (pixels == pixels[:, :, :1]).all()


def bomb(width: int, height: int) -> bytes:
    """A PNG of few bytes whose header declares a huge image."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )


def half_clear() -> Image.Image:
    image = opaque("RGB")
    image.putpixel((5, 5), (9, 9, 9, 128))
    return image


REFUSED: dict[str, tuple[bytes, str, str]] = {
    "zero bytes": (b"", "empty", "is empty"),
    "text": (
        b"no picture",
        "no picture",
        "is not in a known image format (JPEG, PNG, WEBP, BMP, TIFF)",
    ),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n", "no picture", "is not in a known image format"),
    "another format": (saved(frame(3), "PPM"), "no picture", "is not in a known image format"),
    "gif": (saved(frame(3), "GIF"), "no picture", "is not in a known image format"),
    "truncated": (ACCEPTED["plain"][:-400], "truncated", "cannot be decoded (image file is trunc"),
    "truncated png": (ACCEPTED["palette"][:-200], "truncated", "cannot be decoded"),
    "bomb": (bomb(9000, 9000), "too large", "is 9000x9000, more than 64,000,000 pixels"),
    "larger bomb": (bomb(60_000, 60_000), "too large", "more than 64,000,000 pixels"),
    "20,000 wide": (saved(Image.new("L", (20_000, 16)), "PNG"), "too large", "is 20000x16, more"),
    "16x16384": (
        saved(Image.new("L", (16, 16_384)), "PNG"),
        "too narrow",
        "is 16x16384, over 16 t",
    ),
    "1025x64": (saved(Image.new("L", (1025, 64)), "JPEG"), "too narrow", "is 1025x64, over 16 ti"),
    "1x1": (saved(Image.new("L", (1, 1)), "JPEG"), "too small", "is 1x1, less than 16 pixels"),
    "16 bit": (
        saved(Image.fromarray(np.arange(900, dtype=np.uint16).reshape(30, 30)), "PNG"),
        "depth",
        "has colours of mode I;16; save it with 8 bits a colour",
    ),
    "floats": (saved(Image.new("F", (30, 30)), "TIFF"), "depth", "has colours of mode F"),
    "alpha": (saved(half_clear(), "PNG"), "transparent", "has transparent pixels"),
    "clear palette": (palette_png(0), "transparent", "has transparent pixels"),
    "heic": (
        b"\0\0\0\x24ftypheic\0\0\0\0mif1MiHEmiafheic" + bytes(99),
        "no picture",
        "is HEIC, which cannot be read; convert it to JPEG, for example with `magick photo.heic",
    ),
    "heic of another brand": (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heix", "no picture", "is HEIC, "),
    "avif": (
        b"\0\0\0\x20ftypavif\0\0\0\0avifmif1miafMA1B" + bytes(99),
        "no picture",
        "is AVIF, which cannot be read; convert it to JPEG, for example with `magick photo.avif",
    ),
    "avif of another brand": (b"\0\0\0\x18ftypmif1\0\0\0\0mif1avif", "no picture", "is AVIF, "),
    "broken png header": (
        ACCEPTED["palette"][:20] + b"?" + ACCEPTED["palette"][21:],
        "broken",
        "is a PNG with a broken header; save it again",
    ),
    "a video": (b"\0\0\0\x18ftypisom\0\0\0\0isommp42", "no picture", "is not in a known"),
    "animated": (
        saved(frame(3), "WEBP", save_all=True, append_images=[frame(4)]),
        "animated",
        "contains several images",
    ),
    "animated png": (
        saved(frame(3), "PNG", save_all=True, append_images=[frame(4)]),
        "animated",
        "contains several images",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_ambiguous_or_broken_image_is_refused(name, recwarn):
    content, kind, reason = REFUSED[name]
    with pytest.raises(ImageError) as caught:
        decode_image(content)
    assert caught.value.kind == kind
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)
    assert " object at " not in str(caught.value)
    assert not recwarn.list


def never(*_: object) -> None:
    raise AssertionError("decoded")


@pytest.mark.parametrize(
    "name", ["bomb", "larger bomb", "20,000 wide", "16x16384", "1x1", "16 bit"]
)
def test_the_header_is_checked_before_decoding(name, monkeypatch):
    for plugin in ("PngImagePlugin.PngImageFile", "JpegImagePlugin.JpegImageFile"):
        monkeypatch.setattr(f"PIL.{plugin}.load", never)
    with pytest.raises(ImageError, match=r"pixels|colours|times as long"):
        decode_image(REFUSED[name][0])


def test_a_huge_file_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with (tmp_path / "a.jpg").open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    refuse: Callable[[Path], bytes] = never
    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(ImageError, match="has 268,435,457 bytes, more than"):
        read_image_bytes(tmp_path / "a.jpg")


def test_an_error_names_the_file(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"")
    with pytest.raises(UserError, match=r"a.jpg: is empty"):
        read_image(tmp_path / "a.jpg")
    with pytest.raises(UserError, match=r"b.jpg: does not exist"):
        read_image(tmp_path / "b.jpg")
    with pytest.raises(UserError, match=r": is not a file"):
        read_image(tmp_path)
