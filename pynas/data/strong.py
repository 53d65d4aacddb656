"""BYOL's and MoCo's augmentation of a whole batch in memory: drawn per image, the arithmetic is done for all at once.

This is an order of magnitude faster than torchvision's transforms image by image, and runs on GPUs. The order of the
colour changes is drawn once per batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2 import functional as tv


@dataclass(frozen=True)
class Changes:
    """ColorJitter's ranges of brightness, contrast, saturation and hue; the share of images that each change is applied to."""

    jitter: tuple[float, float, float, float]
    jittered: float = 0.8
    grey: float = 0.2
    blurred: float = 0.5
    solarized: float = 0.0


# BYOL's, with the mean probabilities of its two views (arXiv:2006.07733, table 6); MoCo v2's (arXiv:2003.04297), as Pi-NAS.
BYOL = Changes((0.4, 0.4, 0.2, 0.1), blurred=0.55, solarized=0.1)
MOCO = Changes((0.4, 0.4, 0.4, 0.1))


class Strong:
    """Crop and resize, mirror (where `flip`), colour jitter, grey, blur, solarise: uint8 `[B, 3, H, W]` in and out.

    scale: range of the crop's share of the area; the ratio of its sides is within 3/4..4/3. All parameters are drawn by
    torch's CPU generator, whatever the device.
    """

    def __init__(self, changes: Changes, scale: tuple[float, float], flip: bool = True) -> None:
        self.changes, self.scale, self.flip = changes, scale, flip

    def __call__(self, images: Tensor) -> Tensor:
        batch, _, height, width = images.shape
        x = resized_crops(images.float() / 255, *draw_crops(batch, height, width, self.scale))
        if self.flip:
            x = torch.where(_draw_share(0.5, x), x.flip(-1), x)
        changes, size = self.changes, max(3, height // 10 | 1)
        x = torch.where(_draw_share(changes.jittered, x), jitter(x, changes.jitter), x)
        x = torch.where(_draw_share(changes.grey, x), grey(x).expand_as(x), x)
        x = torch.where(_draw_share(changes.blurred, x), blur(x, 0.1 + 1.9 * torch.rand(batch), size), x)
        x = torch.where(_draw_share(changes.solarized, x) & (x >= 128 / 255), 1 - x, x)
        return to_bytes(x)


class Jitter:
    """Change brightness, contrast and saturation by factors in 1 - amount..1 + amount: uint8 `[B, 3, H, W]` in and out."""

    def __init__(self, amount: float) -> None:
        self.ranges = (amount, amount, amount, 0.0)

    def __call__(self, images: Tensor) -> Tensor:
        return to_bytes(jitter(images.float() / 255, self.ranges))


def to_bytes(x: Tensor) -> Tensor:
    """Round images in [0, 1] to uint8."""
    return (x * 255).round().to(torch.uint8)


def _draw_share(share: float, like: Tensor) -> Tensor:
    """Mask `[B, 1, 1, 1]` that is true for each image with probability `share`."""
    return (torch.rand(len(like)) < share).to(like.device)[:, None, None, None]


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


def jitter(x: Tensor, ranges: tuple[float, float, float, float]) -> Tensor:
    """Change brightness, contrast, saturation and hue by factors drawn per image, in an order drawn per batch."""
    factors = [((2 * torch.rand(len(x)) - 1) * most).to(x)[:, None, None, None] for most in ranges]
    for change in torch.randperm(4).tolist():
        factor = 1 + factors[change]
        if change == 0:
            x = (x * factor).clamp(0, 1)
        elif change == 1:
            x = _blend(x, grey(x).mean((2, 3), keepdim=True), factor)
        elif change == 2:
            x = _blend(x, grey(x), factor)
        else:
            x = turn_hue(x, factors[3])
    return x


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


def blur(x: Tensor, sigma: Tensor, size: int) -> Tensor:
    """Gaussian blur with reflected borders; sigma: in pixels, per image `[B]`; size: of the kernel, odd."""
    distance = torch.arange(size, dtype=torch.float32) - size // 2
    kernel = torch.exp(-0.5 * (distance / sigma[:, None]) ** 2)
    kernel = (kernel / kernel.sum(1, keepdim=True)).to(x).repeat_interleave(3, 0)
    pad = size // 2
    planes = F.pad(x, [pad] * 4, mode="reflect").flatten(0, 1)[None]
    planes = F.conv2d(planes, kernel[:, None, None, :], groups=len(kernel))
    return F.conv2d(planes, kernel[:, None, :, None], groups=len(kernel)).view_as(x)
