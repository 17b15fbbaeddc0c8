"""Checks and decodes one image.

prepare, train, evaluate and predict see the same pixels: turned upright by the EXIF tag, then
converted to RGB by Pillow. An image that could become RGB in more than one way is refused.
"""

import warnings
from io import BytesIO
from pathlib import Path

from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from llava_dvc.errors import UserError

MAX_PIXELS = 64_000_000
"""Larger images are refused before they are decoded: a small file can hold a huge image."""

MAX_SIDE = 16_384
MIN_SIDE = 16
"""On fewer pixels people cannot be recognised."""

MAX_BYTES = 256 * 2**20
"""Larger files are not read."""

IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")
"""The only decoders tried: some others of Pillow start programs (EPS runs Ghostscript)."""

MODES = {"1", "L", "LA", "P", "RGB", "RGBA", "CMYK"}
"""Pillow's modes of 8 bits a colour. It clips 16-bit grey at 255 instead of scaling it."""

# Pillow warns above a limit of its own, which is higher than MAX_PIXELS.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


class ImageError(UserError):
    """An image that cannot be used; `kind` is the word for the reason in prepared/report.json."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


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


def decode_image(content: bytes) -> Image.Image:
    """The RGB image in the bytes of a file, decoded in full and upright; raises ImageError."""
    if not content:
        raise ImageError("empty", "is empty")
    try:
        with Image.open(BytesIO(content), formats=IMAGE_FORMATS) as image:
            _check_header(image)
            image.load()
            _check_opaque(image)
            turned = image.getexif().get(ExifTags.Base.Orientation) is not None
            return (ImageOps.exif_transpose(image) if turned else image).convert("RGB")
    except ImageError:
        raise
    except UnidentifiedImageError:
        names = ", ".join(IMAGE_FORMATS)
        raise ImageError("no picture", f"is not in a known image format ({names})") from None
    except Image.DecompressionBombError:
        raise ImageError("too large", f"has more than {MAX_PIXELS:,} pixels") from None
    except Exception as error:  # Pillow raises almost any exception on broken bytes
        reason = " ".join(str(error).split()) or type(error).__name__
        kind = "truncated" if "truncated" in reason.lower() else "broken"
        raise ImageError(kind, f"cannot be decoded ({reason})") from None


def _check_header(image: Image.Image) -> None:
    """Raises ImageError for what the header shows before the pixels are decoded."""
    size = f"is {image.width}x{image.height}"
    if image.width * image.height > MAX_PIXELS:
        raise ImageError("too large", f"{size}, more than {MAX_PIXELS:,} pixels")
    if max(image.size) > MAX_SIDE:
        raise ImageError("too large", f"{size}, more than {MAX_SIDE:,} pixels on a side")
    if min(image.size) < MIN_SIDE:
        raise ImageError("too small", f"{size}, less than {MIN_SIDE} pixels on a side")
    # An MPO file, a phone's JPEG, also holds the depth or brightness of its first image.
    if getattr(image, "is_animated", False) and image.format != "MPO":
        raise ImageError("animated", "holds several images; save only the labelled one")
    if image.mode not in MODES:
        raise ImageError("depth", f"has colours of mode {image.mode}; save it with 8 bits a colour")


def _check_opaque(image: Image.Image) -> None:
    if not image.has_transparency_data:
        return
    least, _ = image.convert("RGBA").getchannel("A").getextrema()
    if least != 255:
        raise ImageError("transparent", "has transparent pixels; save it without transparency")
