"""One picture: what is accepted, and the one way in which it becomes RGB pixels.

prepare, train, evaluate and predict see the same pixels: upright by the EXIF tag, then RGB as
Pillow converts it. What could become RGB in more than one way is refused.
"""

import warnings
from io import BytesIO
from pathlib import Path

from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from llava_dvc.errors import UserError

MAX_PIXELS = 64_000_000
"""Larger images are refused before they are decoded, so that a small file cannot fill memory."""

MAX_SIDE = 16_384
MIN_SIDE = 16
"""On fewer pixels nobody can be seen, let alone counted."""

MAX_BYTES = 256 * 2**20
"""Larger files are not even read."""

IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")
"""The only decoders tried: some of Pillow's others start programs (EPS runs Ghostscript)."""

MODES = {"1", "L", "LA", "P", "RGB", "RGBA", "CMYK"}
"""8 bits a colour. Pillow cuts 16-bit greys off at 255 instead of scaling them."""

# Pillow's own limit is above ours, which is checked as early.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


class PictureError(UserError):
    """Why a picture cannot be used; `kind` is what its report calls that."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


def read_rgb(path: Path) -> Image.Image:
    """The picture in a file as every stage sees it; raises UserError with its name."""
    try:
        return rgb(read_bytes(path))
    except PictureError as error:
        raise UserError(f"{path}: {error}") from None


def read_bytes(path: Path) -> bytes:
    """The file, if it is one and not too large; raises PictureError."""
    try:
        if not path.is_file():
            raise PictureError("missing", "is no file" if path.exists() else "does not exist")
        if (size := path.stat().st_size) > MAX_BYTES:
            raise PictureError("too large", f"has {size:,} bytes, more than {MAX_BYTES:,}")
        return path.read_bytes()
    except (OSError, ValueError) as error:
        if isinstance(error, PictureError):
            raise
        reason = getattr(error, "strerror", None) or str(error)
        raise PictureError("unreadable", f"cannot be read ({reason})") from None


def rgb(content: bytes) -> Image.Image:
    """A picture decoded to its last pixel, upright, in RGB; raises PictureError."""
    if not content:
        raise PictureError("empty", "is empty")
    try:
        with Image.open(BytesIO(content), formats=IMAGE_FORMATS) as image:
            _require_usable(image)
            image.load()
            _require_opaque(image)
            turned = image.getexif().get(ExifTags.Base.Orientation) is not None
            return (ImageOps.exif_transpose(image) if turned else image).convert("RGB")
    except PictureError:
        raise
    except UnidentifiedImageError:
        names = ", ".join(IMAGE_FORMATS)
        raise PictureError("no picture", f"is no picture ({names})") from None
    except Image.DecompressionBombError:
        raise PictureError("too large", f"has more than {MAX_PIXELS:,} pixels") from None
    except Exception as error:  # broken bytes make Pillow raise almost anything
        reason = " ".join(str(error).split()) or type(error).__name__
        kind = "truncated" if "truncated" in reason.lower() else "broken"
        raise PictureError(kind, f"cannot be decoded ({reason})") from None


def _require_usable(image: Image.Image) -> None:
    """What the header alone tells, before anything is decoded."""
    size = f"is {image.width}x{image.height}"
    if image.width * image.height > MAX_PIXELS:
        raise PictureError("too large", f"{size}, more than {MAX_PIXELS:,} pixels")
    if max(image.size) > MAX_SIDE:
        raise PictureError("too large", f"{size}, more than {MAX_SIDE:,} pixels on a side")
    if min(image.size) < MIN_SIDE:
        raise PictureError("too small", f"{size}, less than {MIN_SIDE} pixels on a side")
    # The further pictures of an MPO, a phone's JPEG, are depth or brightness of the first.
    if getattr(image, "is_animated", False) and image.format != "MPO":
        raise PictureError("animated", "holds several pictures; save the labelled one alone")
    if image.mode not in MODES:
        raise PictureError("depth", f"has colours of kind {image.mode}; save it with 8 bits each")


def _require_opaque(image: Image.Image) -> None:
    if not image.has_transparency_data:
        return
    least, _ = image.convert("RGBA").getchannel("A").getextrema()
    if least != 255:
        raise PictureError("transparent", "has transparent pixels; save it without transparency")
