"""Random views of stored frames as training pixels, computed on the device."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
CUBIC = -0.5  # Pillow's bicubic


@dataclass(frozen=True)
class View:
    """One window per frame, in pixels of the frame: a square canvas, and the part that it shows.

    The first dimension is the frame. Where the canvas reaches beyond the shown part, it has the
    mean colour, like LLaVA's padding. `blur` widens the resampling kernel.
    """

    canvas: Tensor  # (frames, 4): left, top, right, bottom; left > right mirrors
    shown: Tensor  # (frames, 4): left, top, right, bottom
    blur: Tensor  # (frames, 2): across and down, 1 is none


def whole_view(frames: int, width: int, height: int, pad: bool, device: torch.device) -> View:
    """Returns the evaluation view: the whole frame, squashed or padded to a square."""
    shown = torch.tensor([0.0, 0.0, width, height], device=device).expand(frames, 4)
    canvas = _padded(shown) if pad else shown
    return View(canvas, shown, torch.ones(frames, 2, device=device))


@dataclass(frozen=True)
class Windows:
    """Limits of the share of a frame's width and height that a training view shows."""

    smallest: float
    largest: float
    whole: float
    """Share of the views that show at least nine tenths of the largest window."""

    def tensor(self, device: torch.device) -> Tensor:
        """Returns the limits, (3,), on the device: a recorded CUDA graph reads new values there."""
        return torch.tensor([self.smallest, self.largest, self.whole], device=device)


def random_view(frames: int, width: int, height: int, windows: Tensor) -> View:
    """Returns random windows: squashed, padded or placed in a larger canvas, some mirrored."""
    device = windows.device
    shown = _random_window(frames, width, height, windows)
    kind = torch.rand(frames, 1, device=device)
    canvas = torch.where(kind < 0.2, _padded(shown), shown)
    canvas = torch.where(kind > 0.9, _shrunk(shown), canvas)
    mirrored = torch.rand(frames, 1, device=device) < 0.5
    left, top, right, bottom = canvas.split(1, dim=1)
    canvas = torch.where(mirrored, torch.cat([right, top, left, bottom], dim=1), canvas)
    blur = 1 + torch.rand(frames, 2, device=device).pow(3) * 1.2
    return View(canvas, shown, blur)


def _random_window(frames: int, width: int, height: int, windows: Tensor) -> Tensor:
    smallest, largest, whole = windows.unbind()
    share = torch.rand(frames, device=windows.device)
    low = smallest + (torch.rand_like(share) < whole) * (0.9 * largest - smallest)
    zoom = low + (largest - low) * share
    stretch = torch.exp(torch.randn_like(share) * 0.12)
    wide = (zoom * stretch).clamp(max=1.0) * width
    tall = (zoom / stretch).clamp(max=1.0) * height
    left = torch.rand_like(share) * (width - wide)
    top = torch.rand_like(share) * (height - tall)
    return torch.stack([left, top, left + wide, top + tall], dim=1)


def _padded(shown: Tensor) -> Tensor:
    centre = (shown[:, :2] + shown[:, 2:]) / 2
    half = (shown[:, 2:] - shown[:, :2]).amax(1, keepdim=True) / 2
    return torch.cat([centre - half, centre + half], dim=1)


def _shrunk(shown: Tensor) -> Tensor:
    """Places the view at random in a canvas up to 1.6 times as large."""
    size = shown[:, 2:] - shown[:, :2]
    extra = size * torch.rand_like(size) * 0.6
    before = extra * torch.rand_like(size)
    return torch.cat([shown[:, :2] - before, shown[:, 2:] + extra - before], dim=1)


def resample(images: Tensor, view: View, side: int) -> tuple[Tensor, Tensor]:
    """Resamples (frames, H, W, 3) bytes to (frames, 3, side, side) in 0..1, and a picture mask.

    It is antialiased bicubic with Pillow's kernel, as two matrix products.
    """
    frames, height, width, _ = images.shape
    precision = torch.float16 if images.is_cuda else torch.float32
    across, seen_x = _weights(view, 0, side, width)
    down, seen_y = _weights(view, 1, side, height)
    mean = _channels(CLIP_MEAN, images.device).to(precision)
    centred = images.to(precision) / 255 - mean
    rows = down.to(precision) @ centred.view(frames, height, width * 3)
    rows = rows.view(frames, side, width, 3).permute(0, 3, 1, 2)
    pixels = rows @ across.to(precision).transpose(1, 2)[:, None]
    inside = seen_y[:, None, :, None] & seen_x[:, None, None, :]
    return pixels.float() + mean.float()[:, None, None], inside


def _channels(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Fills the tensor on the device: a recorded CUDA graph cannot copy it from the host."""
    return torch.cat([torch.full((1,), value, device=device) for value in values])


def _weights(view: View, axis: int, side: int, size: int) -> tuple[Tensor, Tensor]:
    """Returns resampling matrices (frames, side, size), and which outputs lie on the picture."""
    start, stop = view.canvas[:, axis], view.canvas[:, axis + 2]
    low, high = view.shown[:, axis, None], view.shown[:, axis + 2, None]
    step = (stop - start) / side
    outputs = torch.arange(side, device=start.device) + 0.5
    centres = start[:, None] + outputs * step[:, None]
    scale = (step.abs().clamp(min=1.0) * view.blur[:, axis])[:, None, None]
    sources = torch.arange(size, device=start.device) + 0.5
    weights = _cubic((sources - centres[:, :, None]).abs() / scale)
    on_picture = (sources >= low) & (sources <= high)
    weights = weights * on_picture[:, None, :]
    weights = weights / weights.sum(-1, keepdim=True).clamp(min=1e-3)
    return weights, (centres >= low) & (centres <= high)


def _cubic(x: Tensor) -> Tensor:
    near = ((CUBIC + 2) * x - (CUBIC + 3)) * x * x + 1
    far = ((CUBIC * x - 5 * CUBIC) * x + 8 * CUBIC) * x - 4 * CUBIC
    return torch.where(x < 1, near, torch.where(x < 2, far, torch.zeros_like(x)))


def normalise(pixels: Tensor, inside: Tensor) -> Tensor:
    """Subtracts CLIP's mean and divides by its deviation. Outside the picture the result is 0."""
    mean = _channels(CLIP_MEAN, pixels.device)[:, None, None]
    std = _channels(CLIP_STD, pixels.device)[:, None, None]
    return (pixels.clamp(0, 1) - mean) / std * inside


def restyle(pixels: Tensor) -> Tensor:
    """Filters half of the pictures with a small random convolution, which keeps their shapes.

    The textures and colours that the renderer cannot draw then matter less. Random convolutions:
    Xu et al., "Robust and generalizable visual representation learning via random convolutions",
    ICLR 2021. Mean and spread of each colour stay. A random share of the picture stays unfiltered.
    """
    frames, device = len(pixels), pixels.device
    kernels = torch.randn(frames * 3, 1, 3, 3, device=device) / 3
    grouped = pixels.reshape(1, frames * 3, *pixels.shape[-2:])
    filtered = F.conv2d(grouped, kernels, padding=1, groups=frames * 3).view_as(pixels)
    colours = torch.randn(frames, 3, 3, device=device) / 3**0.5
    filtered = (colours @ filtered.flatten(2)).view_as(pixels)
    share = torch.rand(frames, 1, 1, 1, device=device)
    share = share * (torch.rand_like(share) < 0.5)
    mixed = (1 - share) * pixels + share * filtered
    return _like(mixed, pixels)


def _like(changed: Tensor, pixels: Tensor) -> Tensor:
    """Gives each colour of `changed` the mean and spread that it has in `pixels`."""
    area = (2, 3)
    spread = pixels.std(area, keepdim=True) / changed.std(area, keepdim=True).clamp(min=1e-3)
    middle = changed.mean(area, keepdim=True)
    return (changed - middle) * spread + pixels.mean(area, keepdim=True)


def jitter(pixels: Tensor) -> Tensor:
    """Varies colour, contrast, gamma, uneven light, glare, sharpening and noise at random."""
    frames, device = len(pixels), pixels.device

    def around_one(channels: int, spread: float) -> Tensor:
        return torch.exp(torch.randn(frames, channels, 1, 1, device=device) * spread)

    pixels = _saturate(pixels, 1.2 * torch.rand(frames, 1, 1, 1, device=device) + 0.2)
    pixels = pixels * around_one(3, 0.07) * around_one(1, 0.18) * _uneven_light(pixels)
    pixels = pixels + _glare(pixels)
    middle = pixels.mean((1, 2, 3), keepdim=True)
    pixels = (pixels - middle) * around_one(1, 0.2) + middle
    pixels = pixels.clamp(1e-3, 1.0) ** around_one(1, 0.2)
    sharpening = (torch.rand(frames, 1, 1, 1, device=device) * 2 - 1).clamp(min=0)
    pixels = pixels + sharpening * (pixels - F.avg_pool2d(pixels, 3, 1, 1))
    noise = torch.rand(frames, 1, 1, 1, device=device).pow(3) * 0.09
    return pixels + torch.randn_like(pixels) * noise


def _saturate(pixels: Tensor, amount: Tensor) -> Tensor:
    grey = pixels.mean(1, keepdim=True)
    return grey + (pixels - grey) * amount


def _uneven_light(pixels: Tensor) -> Tensor:
    coarse = torch.randn(len(pixels), 1, 4, 4, device=pixels.device) * 0.12
    smooth = F.interpolate(coarse, size=pixels.shape[-2:], mode="bicubic", align_corners=False)
    return torch.exp(smooth)


def _glare(pixels: Tensor) -> Tensor:
    """Returns the light that bright areas (windows, lamps) spread over their surroundings."""
    side = pixels.shape[-1]
    bright = F.avg_pool2d((pixels - 0.7).clamp(min=0), 8)
    spread = F.avg_pool2d(bright, 5, 1, 2)
    strength = torch.rand(len(pixels), 1, 1, 1, device=pixels.device).pow(3) * 3
    return strength * F.interpolate(spread, size=(side, side), mode="bilinear")


def place_heads(heads: Tensor, counted: Tensor, view: View) -> tuple[Tensor, Tensor]:
    """Returns heads as shares of the canvas (frames, people, 2), and which the view shows."""
    start, stop = view.canvas[:, None, :2], view.canvas[:, None, 2:]
    low, high = view.shown[:, None, :2], view.shown[:, None, 2:]
    seen = ((heads >= low) & (heads <= high)).all(-1)
    return (heads - start) / (stop - start), counted & seen


def heads_per_cell(places: Tensor, counted: Tensor, grid: int, cells: int) -> Tensor:
    """Returns people per cell, (frames, grid * grid, cells * cells): patches in reading order.

    A patch has `cells` cells along a side. Each head is spread over the four nearest cells.
    """
    side = grid * cells
    centres = (torch.arange(side, device=places.device) + 0.5) / side
    near = (1 - (places[..., None] - centres).abs() * side).clamp(min=0)
    near = near / near.sum(-1, keepdim=True).clamp(min=1e-6)
    down = near[:, :, 1] * counted[..., None]
    people = down.transpose(1, 2) @ near[:, :, 0]
    people = people.view(-1, grid, cells, grid, cells).transpose(2, 3)
    return people.reshape(len(places), grid * grid, cells * cells)


def places_in(corners: Tensor, places: Tensor, counted: Tensor) -> Tensor:
    """Returns the number of heads in the region from corners[0] to corners[1], (frames,)."""
    # Heads on the canvas's right or lower edge are inside, heads on an inner edge are not.
    inside = (places >= corners[0]) & ((places < corners[1]) | (corners[1] == 1.0))
    return (inside.all(-1) & counted).sum(-1)
