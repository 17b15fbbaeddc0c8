"""Checks and decodes one image.

prepare, train, evaluate and predict see the same pixels: turned upright by the EXIF tag, then
converted to RGB by Pillow. An image that could become RGB in more than one way is refused.
Metadata that cannot be read is ignored, because the pixels do not depend on it.
"""

import warnings
from io import BytesIO
from pathlib import Path, PurePath
from typing import Any

from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from llava_dvc.errors import UserError

Size = tuple[int, int]
"""Width and height in pixels."""

MAX_PIXELS = 64_000_000
"""Larger images are refused before they are decoded: a small file can hold a huge image."""

MAX_SIDE = 16_384
MIN_SIDE = 16
"""On fewer pixels people cannot be recognised."""

MAX_RATIO = 16
"""Of the long side to the short side. The model sees a square: on narrower ones it sees nobody."""

MAX_BYTES = 256 * 2**20
"""Larger files are not read."""

IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")
"""The only decoders tried: some others of Pillow start programs (EPS runs Ghostscript)."""

_SUFFIXES = {".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}

MODES = {"1", "L", "LA", "P", "RGB", "RGBA", "CMYK"}
"""Pillow's modes of 8 bits a colour. It clips 16-bit grey at 255 instead of scaling it."""

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What turns an image upright, by its EXIF orientation."""

_SIDEWAYS = {TURNS[orientation] for orientation in (5, 6, 7, 8)}
"""Turns that exchange width and height."""

_PNG_EXIF = (b"eXIf", b"Raw profile type", b"com.adobe.xmp")
"""A PNG without these bytes has no orientation."""

_BRANDS = {"AVIF": (b"avif", b"avis"), "HEIC": (b"hei", b"hev", b"mif1", b"msf1")}
"""Marks of an ISO media file (ISO/IEC 23008-12) that tell what is in it; AVIF may have both."""

_STARTS = {"JPEG": b"\xff\xd8\xff", "PNG": b"\x89PNG\r\n\x1a\n"}

# Pillow warns above a limit of its own, which is higher than MAX_PIXELS.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
# Pillow's warnings about broken metadata do not name the file.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.(Jpeg|Tiff)ImagePlugin")


class ImageError(UserError):
    """An image that cannot be used; `kind` is the word for the reason in prepared/report.json."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


def is_picture_name(name: str | PurePath) -> bool:
    """Whether a file's name ends like that of a picture. The content decides what it is."""
    return PurePath(name).suffix.lower() in _SUFFIXES


def read_image(path: Path) -> Image.Image:
    """The RGB image in a file; raises UserError with the file's name."""
    try:
        return decode_image(read_image_bytes(path))
    except ImageError as error:
        raise UserError(f"{path}: {error}") from None


def read_image_bytes(path: Path) -> bytes:
    """The bytes of a file of at most MAX_BYTES; raises ImageError."""
    try:
        if not path.is_file():
            raise ImageError("missing", "is not a file" if path.exists() else "does not exist")
        if (size := path.stat().st_size) > MAX_BYTES:
            raise ImageError("too large", f"has {size:,} bytes, more than {MAX_BYTES:,}")
        return path.read_bytes()
    except (OSError, ValueError) as error:
        if isinstance(error, ImageError):
            raise
        reason = getattr(error, "strerror", None) or str(error)
        raise ImageError("unreadable", f"cannot be read ({reason})") from None


def stated_pixels(path: Path) -> int:
    """The pixels that decoding the file makes, as its header says; 0 if it cannot be decoded."""
    try:
        with Image.open(path, formats=IMAGE_FORMATS) as image:
            _check_header(image)
            return image.width * image.height
    except Exception:  # `read_image` says why
        return 0


def upright_size(path: Path) -> Size:
    """Width and height of a file that `decode_image` accepts. Decodes it only if necessary."""
    with Image.open(path, formats=IMAGE_FORMATS) as image:
        if image.format not in ("JPEG", "MPO"):  # others may have metadata after the pixels
            image.load()
        return image.size[::-1] if _turn_of(image) in _SIDEWAYS else image.size


def decode_image(content: bytes) -> Image.Image:
    """The RGB image in the bytes of a file, decoded in full and upright; raises ImageError."""
    if not content:
        raise ImageError("empty", "is empty")
    try:
        with Image.open(BytesIO(content), formats=IMAGE_FORMATS) as image:
            _check_header(image)
            image.load()
            _check_opaque(image)
            return upright_rgb(image)
    except UnidentifiedImageError:
        raise _unidentified(content) from None
    except Image.DecompressionBombError:
        raise ImageError("too large", f"has more than {MAX_PIXELS:,} pixels") from None
    except Exception as error:  # Pillow raises almost any exception on broken bytes
        raise _image_error(error) from None


def upright_rgb(image: Image.Image) -> Image.Image:
    """A Pillow image in RGB, turned upright by its EXIF tag; raises ImageError.

    The result has no metadata, so that nobody reads it again. It is `image` itself if that is so
    already, else a copy. `image` stays as it is.
    """
    try:
        image.load()
        turn = _turn_of(image)
        if type(image) is Image.Image and image.mode == "RGB" and not (turn or image.info):
            return image
        rgb = (image if turn is None else image.transpose(turn)).convert("RGB")
    except Exception as error:
        raise _image_error(error) from None
    rgb.info = {}
    return rgb


def stored_bytes(content: bytes) -> bytes:
    """The bytes for prepared/ of an image that `decode_image` accepts: `content`, if possible.

    `datasets` stops at metadata that is ignored here. It gets a PNG of the pixels instead.
    """
    if _has_plain_metadata(content):
        return content
    file = BytesIO()
    decode_image(content).save(file, "PNG")
    return file.getvalue()


def _has_plain_metadata(content: bytes) -> bool:
    """Whether `datasets` can turn the image upright. Decodes it only if that is necessary."""
    try:
        with Image.open(BytesIO(content), formats=IMAGE_FORMATS) as image:
            if image.format == "PNG" and not any(mark in content for mark in _PNG_EXIF):
                return True
            if image.format not in ("JPEG", "MPO"):  # others may have metadata after the pixels
                image.load()
            if image.getexif().get(ExifTags.Base.Orientation) is not None:
                ImageOps.exif_transpose(image)
    except Exception:
        return False
    return True


def _turn_of(image: Image.Image) -> Image.Transpose | None:
    """What turns `image` upright; None if it is upright or its metadata cannot be read."""
    try:
        orientation: Any = image.getexif().get(ExifTags.Base.Orientation)
        return TURNS.get(orientation)
    except Exception:
        return None


def _image_error(error: Exception) -> ImageError:
    """The error itself if it is an ImageError, else one with its text."""
    if isinstance(error, ImageError):
        return error
    reason = " ".join(str(error).split()) or type(error).__name__
    kind = "truncated" if "truncated" in reason.lower() else "broken"
    return ImageError(kind, f"cannot be decoded ({reason})")


def _unidentified(content: bytes) -> ImageError:
    """The error of a file that no decoder takes; it says how to convert a phone's format."""
    brands = content[8:64] if content[4:8] == b"ftyp" else b""
    for name, marks in _BRANDS.items():
        if any(mark in brands for mark in marks):
            reason = (
                f"is {name}, which cannot be read; convert it to JPEG, for example with "
                f"`magick photo.{name.lower()} photo.jpg`"
            )
            return ImageError("no picture", reason)
    for name, start in _STARTS.items():
        if content.startswith(start):
            return ImageError("broken", f"is a {name} with a broken header; save it again")
    names = ", ".join(IMAGE_FORMATS)
    return ImageError("no picture", f"is not in a known image format ({names})")


def require_size(size: Size) -> None:
    """Raises ImageError for a width and a height in pixels that no frame may have."""
    short, long = sorted(size)
    found = "is {}x{}".format(*size)
    if short * long > MAX_PIXELS:
        raise ImageError("too large", f"{found}, more than {MAX_PIXELS:,} pixels")
    if long > MAX_SIDE:
        raise ImageError("too large", f"{found}, more than {MAX_SIDE:,} pixels on a side")
    if short < MIN_SIDE:
        raise ImageError("too small", f"{found}, less than {MIN_SIDE} pixels on a side")
    if long > MAX_RATIO * short:
        reason = f"{found}, over {MAX_RATIO} times as long as wide; cut out the part with people"
        raise ImageError("too narrow", reason)


def _check_header(image: Image.Image) -> None:
    """Raises ImageError for what the header shows before the pixels are decoded."""
    require_size(image.size)
    # An MPO file, a phone's JPEG, also holds the depth or brightness of its first image.
    if getattr(image, "is_animated", False) and image.format != "MPO":
        raise ImageError("animated", "contains several images; save only the labelled one")
    if image.mode not in MODES:
        raise ImageError("depth", f"has colours of mode {image.mode}; save it with 8 bits a colour")


def _check_opaque(image: Image.Image) -> None:
    if not image.has_transparency_data:
        return
    least, _ = image.convert("RGBA").getchannel("A").getextrema()
    if least != 255:
        raise ImageError("transparent", "has transparent pixels; save it without transparency")
