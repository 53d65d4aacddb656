"""BYOL's and MoCo's changes of colour, drawn per image: of a whole batch by torch on its device, of one image by OpenCV.

Image by image, OpenCV takes a fifth of torch's time on a CPU; on a GPU the arithmetic is done for all images at once.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

# Columns of the numbers that are drawn for an image: which changes it gets, the jitter's factors, their order, the blur.
_FLAGS, _FACTORS, _ORDER, _SIGMA, NUMBERS = slice(0, 4), slice(4, 8), slice(8, 12), 12, 13
_BRIGHTNESS, _CONTRAST, _SATURATION, _HUE = range(4)
# Range of the blur's standard deviation, in pixels.
_SIGMAS = (0.1, 2.0)


class Drawn(NamedTuple):
    """Uniform numbers of `draw`, read as the changes of each image of a batch.

    flags: bool `[B, 4]`, whether an image is jittered, grey, blurred, solarised. factors: `[B, 4]`, of brightness, contrast and
    saturation, and the turn of the hue. order: int64 `[B, 4]`, of these four. sigma: `[B]`, of the blur in pixels.
    """

    flags: np.ndarray
    factors: np.ndarray
    order: np.ndarray
    sigma: np.ndarray


@dataclass(frozen=True)
class Changes:
    """ColorJitter's ranges of brightness, contrast, saturation and hue; the share of images that each change is applied to."""

    jitter: tuple[float, float, float, float]
    jittered: float = 0.8
    grey: float = 0.2
    blurred: float = 0.5
    solarized: float = 0.0

    @classmethod
    def of_colours(cls, amount: float) -> Changes:
        """Return a jitter alone, of every image: brightness, contrast and saturation by factors in 1 - amount..1 + amount."""
        return cls((amount, amount, amount, 0.0), 1.0, 0.0, 0.0)

    def read(self, numbers: Tensor) -> Drawn:
        """Read numbers `[B, 13]`, uniform in [0, 1)."""
        uniform = numbers.numpy()
        factors = (2 * uniform[:, _FACTORS] - 1) * np.array(self.jitter, np.float32)
        factors[:, :_HUE] += 1
        sigma = _SIGMAS[0] + (_SIGMAS[1] - _SIGMAS[0]) * uniform[:, _SIGMA]
        flags = uniform[:, _FLAGS] < (self.jittered, self.grey, self.blurred, self.solarized)
        return Drawn(flags, factors, uniform[:, _ORDER].argsort(1), sigma)

    def __call__(self, images: Tensor) -> Tensor:
        """Change a batch as drawn now from torch's generator: uint8 `[B, 3, H, W]` in and out."""
        return self.of_batch(images, draw(len(images)))

    def of_batch(self, images: Tensor, numbers: Tensor) -> Tensor:
        """Change a batch on its device: uint8 `[B, 3, H, W]` in and out; numbers: `[B, 13]` on the CPU."""
        drawn = self.read(numbers)
        x = images.float() / 255
        rows = [flags.nonzero()[0] for flags in drawn.flags.T]
        _apply(x, rows[0], lambda part, chosen: jitter(part, drawn.factors[chosen], drawn.order[chosen]))
        _apply(x, rows[1], lambda part, chosen: grey(part).expand_as(part))
        _apply(
            x, rows[2], lambda part, chosen: blur(part, torch.from_numpy(drawn.sigma[chosen]), blur_size(x.shape[2]))
        )
        _apply(x, rows[3], lambda part, chosen: torch.where(part >= 128 / 255, 1 - part, part))
        return to_bytes(x)

    def of_image(self, image: Tensor) -> Tensor:
        """Change an image on the CPU by OpenCV, as drawn now from torch's generator: uint8 `[3, H, W]` in and out."""
        from pynas.data import opencv  # its import takes a moment, and a GPU needs none of it

        drawn = self.read(draw(1))
        (flags,), (factors,), (order,), (sigma,) = (value.tolist() for value in drawn)
        jittered, greyed, blurred, solarised = flags
        pixels = opencv.pixels_of(image)
        if jittered:
            for change in order:
                pixels = opencv.JITTERS[change](pixels, factors[change])
        if greyed:
            pixels = opencv.saturated(pixels, 0.0)
        if blurred:
            pixels = opencv.blurred(pixels, sigma, blur_size(image.shape[1]))
        if solarised:
            pixels = opencv.solarised(pixels)
        return torch.from_numpy(pixels).permute(2, 0, 1)


def draw(images: int) -> Tensor:
    """Draw the numbers of so many images from torch's CPU generator: `[images, 13]`."""
    return torch.rand(images, NUMBERS, device="cpu")


# BYOL's, with the mean probabilities of its two views (arXiv:2006.07733, table 6); MoCo v2's (arXiv:2003.04297), as Pi-NAS.
BYOL = Changes((0.4, 0.4, 0.2, 0.1), blurred=0.55, solarized=0.1)
MOCO = Changes((0.4, 0.4, 0.4, 0.1))


class Strong:
    """Crop and resize, mirror (where `flip`), and change the colours of a batch in memory: uint8 `[B, 3, H, W]` in and out.

    scale: range of the crop's share of the area; the ratio of its sides is within 3/4..4/3. All parameters are drawn by
    torch's CPU generator, whatever the device.
    """

    def __init__(self, changes: Changes, scale: tuple[float, float], flip: bool = True) -> None:
        self.changes, self.scale, self.flip = changes, scale, flip

    def __call__(self, images: Tensor) -> Tensor:
        batch, _, height, width = images.shape
        x = resized_crops(images.float() / 255, *draw_crops(batch, height, width, self.scale))
        if self.flip:
            x = torch.where((torch.rand(batch) < 0.5).to(x.device)[:, None, None, None], x.flip(-1), x)
        return self.changes(to_bytes(x))


def to_bytes(x: Tensor) -> Tensor:
    """Round images in [0, 1] to uint8."""
    return (x * 255).round().to(torch.uint8)


def _apply(x: Tensor, rows: np.ndarray, change: Callable[[Tensor, np.ndarray], Tensor]) -> None:
    """Replace some images of a batch by `change(images, rows)`."""
    if len(rows):
        there = torch.from_numpy(rows).to(x.device, non_blocking=True)
        x[there] = change(x[there], rows)


def draw_crops(batch: int, height: int, width: int, scale: tuple[float, float]) -> tuple[Tensor, ...]:
    """Draw a crop per image as torchvision's RandomResizedCrop does: the first of ten that fits, else the whole image.

    Returns top, left, height and width, int64 `[B]`.
    """
    attempts = 10
    area = height * width * (scale[0] + (scale[1] - scale[0]) * torch.rand(batch, attempts))
    ratio = torch.exp(math.log(3 / 4) + 2 * math.log(4 / 3) * torch.rand(batch, attempts))
    widths, heights = (area * ratio).sqrt().round().long(), (area / ratio).sqrt().round().long()
    fits = (widths >= 1) & (widths <= width) & (heights >= 1) & (heights <= height)
    first = fits.int().argmax(1)
    rows = torch.arange(batch)
    h = torch.where(fits.any(1), heights[rows, first], height)
    w = torch.where(fits.any(1), widths[rows, first], width)
    top = (torch.rand(batch) * (height - h + 1)).long()
    left = (torch.rand(batch) * (width - w + 1)).long()
    return top, left, h, w


def resized_crops(x: Tensor, top: Tensor, left: Tensor, heights: Tensor, widths: Tensor) -> Tensor:
    """Crop each image of a float batch `[B, C, H, W]`, and resize the crop to H x W bilinearly."""
    height, width = x.shape[2:]
    rows = _positions(top, heights, height, x)
    columns = _positions(left, widths, width, x)
    grid = torch.stack([columns[:, None, :].expand(-1, height, -1), rows[:, :, None].expand(-1, -1, width)], 3)
    return F.grid_sample(x, grid, "bilinear", "border", align_corners=False)


def _positions(start: Tensor, length: Tensor, size: int, like: Tensor) -> Tensor:
    """Positions `[B, size]` at which a row of pixels is sampled, within the crop, in grid_sample's units."""
    start, length = start.to(like)[:, None], length.to(like)[:, None]
    position = (torch.arange(size, device=like.device) + 0.5) * (length / size) - 0.5
    position = start + torch.minimum(position.clamp_min(0), length - 1)
    return (2 * position + 1) / size - 1


def jitter(x: Tensor, factors: np.ndarray, order: np.ndarray) -> Tensor:
    """Change the colours of images `[B, 3, H, W]` in [0, 1], each in an order of its own; factors, order: as of `Drawn`."""
    x = x.clone()
    for place, change in itertools.product(range(4), range(4)):
        rows = (order[:, place] == change).nonzero()[0]
        if change != _HUE or factors[rows, _HUE].any():
            _apply(x, rows, partial(_changed, change, factors))
    return x


def _changed(change: int, factors: np.ndarray, x: Tensor, rows: np.ndarray) -> Tensor:
    """Images after one change of the jitter."""
    factor = torch.from_numpy(factors[rows, change]).to(x)[:, None, None, None]
    if change == _HUE:
        return turn_hue(x, factor)
    if change == _BRIGHTNESS:
        return (x * factor).clamp(0, 1)
    levels = grey(x)
    return _blend(x, levels.mean((2, 3), keepdim=True) if change == _CONTRAST else levels, factor)


def grey(x: Tensor) -> Tensor:
    """Grey levels (luma) `[B, 1, H, W]`."""
    return tv.rgb_to_grayscale(x)


def _blend(x: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    return (factor * x + (1 - factor) * other).clamp(0, 1)


def turn_hue(x: Tensor, turn: Tensor) -> Tensor:
    """Rotate the hue of images `[B, 3, H, W]` by a share of the colour circle, `[B, 1, 1, 1]`."""
    most, least = x.amax(1, keepdim=True), x.amin(1, keepdim=True)
    spread = most - least
    red, green, blue = (x / spread.clamp_min(1e-12)).split(1, 1)
    hue = torch.where(
        x[:, :1] == most, (green - blue) % 6, torch.where(x[:, 1:2] == most, blue - red + 2, red - green + 4)
    )
    hue = hue + 6 * turn
    # HSV to RGB: channel n is v - v s max(0, min(k, 4 - k, 1)) with k = (n + 6 hue) mod 6 and n = 5, 3, 1 for r, g, b.
    offsets = torch.tensor([5.0, 3.0, 1.0], device=x.device).view(1, 3, 1, 1)
    k = (offsets + hue) % 6
    return most - spread * torch.minimum(k, 4 - k).clamp(0, 1)


def blur_size(height: int) -> int:
    """Return the size of the blur's kernel for images of so many rows, in pixels, odd."""
    return max(3, height // 10 | 1)


def blur(x: Tensor, sigma: Tensor, size: int) -> Tensor:
    """Gaussian blur with reflected borders; sigma: in pixels, per image `[B]`; size: of the kernel, odd."""
    distance = torch.arange(size, dtype=torch.float32) - size // 2
    kernel = torch.exp(-0.5 * (distance / sigma[:, None]) ** 2)
    kernel = (kernel / kernel.sum(1, keepdim=True)).to(x).repeat_interleave(3, 0)
    pad = size // 2
    planes = F.pad(x, [pad] * 4, mode="reflect").flatten(0, 1)[None]
    planes = F.conv2d(planes, kernel[:, None, None, :], groups=len(kernel))
    return F.conv2d(planes, kernel[:, None, :, None], groups=len(kernel)).view_as(x)
