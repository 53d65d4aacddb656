"""Augmentation: torchvision's transforms, and what they lack: per-image draws for a whole batch, and views.

In memory a transform gets a whole uint8 batch `[B, 3, H, W]`; read from files it gets one image. The loader seeds the
global random states before each call (see `loaders.py`), so any transform of torchvision or timm repeats exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from timm.data.auto_augment import posterize
from timm.data.random_erasing import RandomErasing
from timm.data.transforms_factory import transforms_imagenet_train
from torch import Tensor
from torchvision.transforms import v2

from pynas.data.strong import Strong
from pynas.errors import InputError

Transform = Callable[[Any], Any]
AUGMENTATIONS = ("none", "standard", "strong")
# What the first word of timm's policies may be: RandAugment, AugMix, AutoAugment in its versions.
_POLICIES = ("rand", "augmix", "original", "originalr", "v0", "v0r")


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


class OfPIL:
    """Apply a transform of PIL images to each image of a uint8 batch `[B, 3, H, W]`."""

    def __init__(self, transform: Transform) -> None:
        self.transform = PerImage(v2.Compose([v2.ToPILImage(), transform, v2.PILToTensor()]))

    def __call__(self, images: Tensor) -> Tensor:
        return self.transform(images.cpu()).to(images.device)


def check(augmentation: str) -> None:
    """Raise InputError unless it is one of `AUGMENTATIONS` or begins like a policy of timm."""
    if augmentation not in AUGMENTATIONS and str(augmentation).split("-")[0] not in _POLICIES:
        raise InputError(f"[data] expected an augmentation of {', '.join(AUGMENTATIONS)}, or a policy of timm as "
                         f"rand-m9-mstd0.5-inc1 or v0r-mstd0.5, got {augmentation!r}")  # fmt: skip


def in_memory(kind: str, size: tuple[int, int], flip: bool, mean: Sequence[float]) -> Transform:
    """The augmentation of batches in memory: "none", "standard" (crop, flip), "strong" (BYOL's), or standard and a policy."""
    if kind == "none":
        return v2.Identity()
    if kind == "strong":
        # An eighth of a small image may hold nothing of the object, so the crop keeps a fifth.
        return Strong((0.2, 1.0), flip)
    crop = CropFlip(max(1, size[0] // 8), flip)
    return crop if kind == "standard" else v2.Compose([crop, OfPIL(_timm(kind, size, flip, mean)[1])])


def from_files(kind: str, size: tuple[int, int], flip: bool, mean: Sequence[float]) -> Transform:
    """The same for PIL images of any size: "none" crops the centre, "standard" is ImageNet's random resized crop.

    A policy comes with timm's crop, as DeiT's and AutoFormer's recipes have it.
    """
    if kind == "none":
        return v2.Compose([v2.Resize(round(min(size) / 0.875)), v2.CenterCrop(size), v2.PILToTensor()])
    if kind not in AUGMENTATIONS:
        return v2.Compose([*_timm(kind, size, flip, mean), v2.PILToTensor()])
    crop = v2.RandomResizedCrop(size, scale=(0.08, 1.0))
    rest = _byol(size, flip) if kind == "strong" else _mirror(flip)
    return v2.Compose([crop, *rest, v2.PILToTensor()])


def normalised(mean: Sequence[float], std: Sequence[float]) -> v2.Transform:
    """Bytes to float32 of this mean and standard deviation per channel, one image or a batch."""
    return v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(list(mean), list(std))])


def erasing(share: float, count: int) -> Transform:
    """timm's random erasing of normalised images: a `share` of them loses 1 to `count` rectangles to noise, in place.

    Raises:
        InputError: a share outside [0, 1], or no rectangle.
    """
    if not (isinstance(share, (int, float)) and 0 <= share <= 1 and isinstance(count, int) and count >= 1):
        raise InputError(
            f"[data] expected erasing in [0, 1] and erasing_count of at least 1, got {share!r} and {count!r}"
        )
    # The noise comes from the CPU's generator, which the loader seeds, wherever the images are.
    return RandomErasing(share, mode="pixel", max_count=count, device="cpu")


def _timm(policy: str, size: tuple[int, int], flip: bool, mean: Sequence[float]) -> list[Transform]:
    """timm's crop and mirror, and the policy, of PIL images."""
    try:
        crop, change, _ = transforms_imagenet_train(
            size, hflip=0.5 * flip, auto_augment=policy, color_jitter=0.0, interpolation="bicubic", mean=tuple(mean),
            separate=True,
        )  # type: ignore[misc]  # fmt: skip
    except (AssertionError, ValueError) as error:
        raise InputError(f"[data] expected a policy that timm knows, got {policy!r}: {error}") from None
    (chosen,) = change.transforms
    for op in chosen.ops if hasattr(chosen, "ops") else [op for pair in chosen.policy for op in pair]:
        if op.aug_fn is posterize:
            op.aug_fn = _posterize
    return [crop, change]


def _posterize(image: Image.Image, bits: int, **settings: Any) -> Image.Image:
    """timm's, and black where no bit is left, as older Pillow had it; Pillow 13 raises an error there."""
    return posterize(image, bits, **settings) if bits >= 1 else Image.new(image.mode, image.size)


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
