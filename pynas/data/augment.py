"""Augmentation: torchvision's transforms, and what they lack: per-image draws for a whole batch, and views.

In memory a transform gets a whole uint8 batch `[B, 3, H, W]`; read from files it gets one image. The loader seeds the
global random states before each call (see `loaders.py`), so any transform of torchvision or timm repeats exactly.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms import v2

from pynas.data.strong import Strong

Transform = Callable[[Any], Any]


class CropFlip:
    """Zero-pad, crop back at an offset drawn per image, flip half of the images: `[B, C, H, W] -> [B, C, H, W]`.

    What `v2.RandomCrop(size, padding)` and `v2.RandomHorizontalFlip()` do to one image; those draw once per batch.
    """

    def __init__(self, padding: int = 4, flip: bool = True) -> None:
        self.padding, self.flip = padding, flip

    def __call__(self, images: Tensor) -> Tensor:
        batch, _, height, width = images.shape
        top, left = torch.randint(0, 2 * self.padding + 1, (2, batch), device="cpu").to(images.device)
        windows = F.pad(images, [self.padding] * 4).unfold(2, height, 1).unfold(3, width, 1)
        images = windows[torch.arange(batch, device=images.device), :, top, left]
        if self.flip:
            flipped = torch.rand(batch, device="cpu") < 0.5
            images = torch.where(flipped.to(images.device)[:, None, None, None], images.flip(-1), images)
        return images


class PerImage:
    """Apply a transform that draws once per call to each image of a batch apart."""

    def __init__(self, transform: Transform) -> None:
        self.transform = transform

    def __call__(self, images: Tensor) -> Tensor:
        return torch.stack([self.transform(image) for image in images])


class Views:
    """`n` independent draws of a transform, as a list: the views of self-supervised methods."""

    def __init__(self, transform: Transform, n: int = 2) -> None:
        self.transform, self.n = transform, n

    def __call__(self, images: Any) -> list[Tensor]:
        return [self.transform(images) for _ in range(self.n)]


def in_memory(kind: str, size: tuple[int, int], flip: bool) -> Transform:
    """The augmentation of batches in memory by name: "none", "standard" (crop, flip) or "strong" (BYOL's)."""
    if kind == "none":
        return v2.Identity()
    if kind == "standard":
        return CropFlip(max(1, size[0] // 8), flip)
    # An eighth of a small image may hold nothing of the object, so the crop keeps a fifth.
    return Strong((0.2, 1.0), flip)


def from_files(kind: str, size: tuple[int, int], flip: bool) -> Transform:
    """The same for PIL images of any size: "none" crops the centre, "standard" is ImageNet's random resized crop."""
    if kind == "none":
        return v2.Compose([v2.Resize(round(min(size) / 0.875)), v2.CenterCrop(size), v2.PILToTensor()])
    crop = v2.RandomResizedCrop(size, scale=(0.08, 1.0))
    rest = _byol(size, flip) if kind == "strong" else _mirror(flip)
    return v2.Compose([crop, *rest, v2.PILToTensor()])


def _mirror(flip: bool) -> list[v2.Transform]:
    return [v2.RandomHorizontalFlip()] if flip else []


def _byol(size: tuple[int, int], flip: bool) -> list[v2.Transform]:
    """BYOL's list after its crop (arXiv:2006.07733, table 6); blur and solarisation at the mean of its two views."""
    return [
        *_mirror(flip),
        v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.2, 0.1)], p=0.8),
        v2.RandomGrayscale(p=0.2),
        v2.RandomApply([v2.GaussianBlur(max(3, size[0] // 10 | 1), sigma=(0.1, 2.0))], p=0.55),
        v2.RandomSolarize(threshold=128, p=0.1),
    ]
