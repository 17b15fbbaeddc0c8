"""Degrades a clean picture like a camera's lens, sensor and codec."""

from functools import cache
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageFilter

from pretrain.people import Rng


def degrade(rng: Rng, image: Image.Image) -> Image.Image:
    """Applies exposure, colour, blur, noise and compression of a random camera."""
    image = _lens(rng, image)
    image = _grade(rng, image)
    image = _sensor(rng, image)
    if rng.random() < 0.25:
        soft = image.filter(ImageFilter.BoxBlur(rng.uniform(0.7, 1.6)))
        image = Image.blend(soft, image, rng.uniform(1.4, 2.5))
    return jpeg(image, int(rng.uniform(30, 93))) if rng.random() < 0.7 else image


def _lens(rng: Rng, image: Image.Image) -> Image.Image:
    """Applies defocus, motion blur, or the loss of an upscaled source."""
    scale = image.width / 640
    kind = rng.random()
    if kind < 0.2:
        share = rng.uniform(0.45, 0.85)
        small = int(image.width * share), int(image.height * share)
        return image.resize(small, Image.Resampling.BOX).resize(
            image.size, Image.Resampling.BICUBIC
        )
    if kind < 0.27:
        shift = int(rng.integers(1, 4)), int(rng.integers(-1, 2))
        return Image.blend(image, ImageChops.offset(image, *shift), 0.5)
    return image.filter(ImageFilter.BoxBlur(scale * rng.uniform(0.3, 1.1)))


def _grade(rng: Rng, image: Image.Image) -> Image.Image:
    """Saturation, white balance, gamma, contrast, haze, vignette."""
    # Cameras set the exposure by the frame's mean.
    mean = float(np.asarray(image.resize((16, 12), Image.Resampling.BOX)).mean())
    exposure = np.clip(rng.uniform(80, 165) / max(mean, 1), 0.5, 2.2)
    keep = rng.uniform(0.45, 1.15) if rng.random() < 0.93 else 0.0
    warm = rng.normal(0, 0.07)
    gain = np.array([1 + warm, 1 + rng.normal(0, 0.02), 1 - warm]) * exposure
    gray = np.array([0.299, 0.587, 0.114]) * (1 - keep)
    matrix = [float(v) for i in range(3) for v in (*(gain[i] * (gray + keep * np.eye(3)[i])), 0)]
    image = image.convert("RGB", matrix)
    low, high = rng.uniform(0, 50) * rng.random(), rng.uniform(200, 265)
    curve = low + (high - low) * np.linspace(0, 1, 256) ** rng.uniform(0.75, 1.15)
    image = image.point(np.clip(curve, 0, 255).astype(int).tolist() * 3)
    if rng.random() < 0.5:
        image = ImageChops.multiply(image, _vignette(image.size, int(rng.integers(6))))
    if rng.random() < 0.35:
        image = ImageChops.screen(image, _veil(image.size, int(rng.integers(10))))
    return image


@cache
def _vignette(size: tuple[int, int], strength: int) -> Image.Image:
    y, x = np.mgrid[-1 : 1 : size[1] * 1j, -1 : 1 : size[0] * 1j]
    fall = 255 * (1 - (x * x + y * y) * (0.02 + 0.025 * strength))
    return Image.fromarray(np.clip(fall, 0, 255).astype(np.uint8)).convert("RGB")


@cache
def _veil(size: tuple[int, int], strength: int) -> Image.Image:
    """Adds bright haze to the far part, which is the top."""
    fall = np.linspace(1, 0, size[1])[:, None] ** 2 * (10 + 12 * strength) * np.ones((1, size[0]))
    return Image.fromarray(fall.astype(np.uint8)).convert("RGB")


def _sensor(rng: Rng, image: Image.Image) -> Image.Image:
    return grain(rng, image, rng.exponential(2.2), rng.exponential(1.3))


def grain(rng: Rng, image: Image.Image, luma: float, chroma: float) -> Image.Image:
    """Adds grey and coloured noise. Spreads are in levels of 255; below 0.7 nothing is added."""
    pixels = np.asarray(image).astype(np.int16)
    for field, strength in zip(_noise(), (luma, chroma), strict=True):
        if strength > 0.7:
            y, x = rng.integers(0, 1024 - np.array(pixels.shape[:2]))
            patch = field[y : y + pixels.shape[0], x : x + pixels.shape[1]]
            pixels += (patch * np.int16(strength * 16)) >> 8
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


@cache
def _noise() -> tuple[NDArray[np.int16], NDArray[np.int16]]:
    """Fine grey noise (1024, 1024, 1) and coarser colour noise (1024, 1024, 3), spread 16."""
    rng = np.random.default_rng(74)
    fine = rng.normal(0, 16, (1024, 1024, 1)).astype(np.int16)
    coarse = rng.normal(0, 16, (512, 512, 3)).repeat(2, axis=0).repeat(2, axis=1)
    return fine, coarse.astype(np.int16)


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    """Returns the picture after JPEG compression."""
    buffer = BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")
