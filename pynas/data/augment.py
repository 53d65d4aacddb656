"""Augmentation by torchvision and timm, extended to whole batches with a draw per image, and to several views.

A transform of images in memory gets a whole uint8 batch `[B, 3, H, W]`; a transform of files gets one image. The loader
seeds the global generators before each call (see `loaders.py`), so any transform of torchvision or timm repeats exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from PIL import Image
from timm.data.auto_augment import posterize
from timm.data.random_erasing import RandomErasing
from timm.data.transforms_factory import transforms_imagenet_train
from torch import Tensor
from torchvision.transforms import v2

from pynas.data.strong import BYOL, MOCO, Changes, Strong, draw
from pynas.errors import InputError

Transform = Callable[[Any], Any]
AUGMENTATIONS = ("none", "standard", "strong", "moco")
# Share of the side of files that a centre crop keeps.
KEPT = 0.875
# Colour jitter by so much after crop and flip: jitter-0.4.
_JITTER = "jitter-"
_VIEWS = {"strong": BYOL, "moco": MOCO}
# First words of the names of timm's policies: RandAugment, AugMix, and the versions of AutoAugment.
_POLICIES = ("rand", "augmix", "original", "originalr", "v0", "v0r")


class CropFlip:
    """Zero-pad, crop back at an offset drawn per image, flip half of the images: `[B, C, H, W] -> [B, C, H, W]`.

    Each image is changed as by `v2.RandomCrop(size, padding)` and `v2.RandomHorizontalFlip()`, which would draw only once
    for the whole batch.
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


class CropResize:
    """Crop at random, resize, flip half of the images: uint8 `[3, H, W]` in memory `[H, W, 3]`, in and out.

    Same draws and values as those of `v2.RandomResizedCrop` and `v2.RandomHorizontalFlip`. The pixels of the crop are first copied
    together, which halves the time of resizing.
    """

    def __init__(self, size: tuple[int, int], scale: tuple[float, float], flip: bool) -> None:
        self.size, self.flip, self.crop = list(size), flip, v2.RandomResizedCrop(size, scale=scale)

    def __call__(self, image: Tensor) -> Tensor:
        top, left, height, width = map(self.crop.make_params([image]).get, ("top", "left", "height", "width"))
        window = image[:, top : top + height, left : left + width].permute(1, 2, 0).contiguous().permute(2, 0, 1)
        resized = v2.functional.resize(window, self.size, antialias=True)
        return resized.flip(-1) if self.flip and float(torch.rand(1)) < 0.5 else resized


class PerImage:
    """Apply a transform to each image of a batch by itself, so that it draws for each."""

    def __init__(self, transform: Transform) -> None:
        self.transform = transform

    def __call__(self, images: Tensor) -> Tensor:
        return torch.stack([self.transform(image) for image in images])


class Views:
    """Apply a transform `n` times and return the list of results: the views of self-supervised methods."""

    def __init__(self, transform: Transform, n: int = 2) -> None:
        self.transform, self.n = transform, n

    def __call__(self, images: Any) -> list[Tensor]:
        return [self.transform(images) for _ in range(self.n)]


class Unfinished(NamedTuple):
    """Images uint8 `[..., 3, H, W]` whose colours are to be changed on their device, and the numbers `[..., 13]` drawn for it."""

    images: Tensor
    numbers: Tensor


def with_numbers(image: Tensor) -> Unfinished:
    """Draw the numbers of an image `[3, H, W]` now, for `Changes.of_batch` on a device."""
    return Unfinished(image, draw(1)[0])


class OfPIL:
    """Apply a transform of PIL images to each image of a uint8 batch `[B, 3, H, W]`."""

    def __init__(self, transform: Transform) -> None:
        self.transform = PerImage(v2.Compose([v2.ToPILImage(), transform, v2.PILToTensor()]))

    def __call__(self, images: Tensor) -> Tensor:
        return self.transform(images.cpu()).to(images.device)


def check(augmentation: str) -> None:
    """Raise InputError unless an augmentation is one of `AUGMENTATIONS`, a jitter, or begins like the name of a policy of timm."""
    known = augmentation in AUGMENTATIONS or _jitter(augmentation) is not None
    if not known and str(augmentation).split("-")[0] not in _POLICIES:
        raise InputError(f"[data] expected an augmentation of {', '.join(AUGMENTATIONS)}, {_JITTER}0.4, or a policy of timm as "
                         f"rand-m9-mstd0.5-inc1 or v0r-mstd0.5, got {augmentation!r}")  # fmt: skip


def _jitter(augmentation: str) -> float | None:
    """Amount of a colour jitter in (0, 1], None for another augmentation."""
    prefix, _, amount = str(augmentation).partition(_JITTER)
    if prefix or not amount.replace(".", "", 1).isdecimal() or not 0 < float(amount) <= 1:
        return None
    return float(amount)


def in_memory(kind: str, size: tuple[int, int], flip: bool, mean: Sequence[float]) -> Transform:
    """Return the transform of batches in memory.

    "none", "standard" (crop and flip), "strong" (BYOL's), "moco" (MoCo v2's), or what follows crop and flip: "jitter-0.4"
    (colours), a policy of timm.
    """
    if kind == "none":
        return v2.Identity()
    if kind in _VIEWS:
        # An eighth of a small image, BYOL's smallest crop, may miss the object; a fifth rarely does.
        return Strong(_VIEWS[kind], (0.2, 1.0), flip)
    crop, changes = CropFlip(max(1, size[0] // 8), flip), changes_of(kind)
    if kind == "standard":
        return crop
    return v2.Compose([crop, changes or OfPIL(_timm(kind, size, flip, mean)[1])])


def from_files(kind: str, size: tuple[int, int], flip: bool, mean: Sequence[float], later: bool = False) -> Transform:
    """Return the transform of images uint8 `[3, H, W]` of any size: "none" crops the centre, "standard" is ImageNet's crop.

    A policy follows timm's crop, as in the recipes of DeiT and AutoFormer. later: leave changes of colour to the device: the
    transform gives `Unfinished` images where `changes_of(kind)` is not None.
    """
    if kind == "none":
        return v2.Compose([v2.Resize(round(min(size) / KEPT)), v2.CenterCrop(size)])
    changes = changes_of(kind)
    if changes is None and kind not in AUGMENTATIONS:
        return v2.Compose([v2.ToPILImage(), *_timm(kind, size, flip, mean), v2.PILToTensor()])
    crop = CropResize(size, (0.2 if kind == "moco" else 0.08, 1.0), flip)
    return crop if changes is None else v2.Compose([crop, with_numbers if later else changes.of_image])


def changes_of(kind: str) -> Changes | None:
    """Return the changes of colour of an augmentation, None where it has none or a policy of timm's."""
    amount = _jitter(kind)
    return _VIEWS.get(kind) if amount is None else Changes.of_colours(amount)


class Normalise:
    """Normalise by a mean and deviation per channel of values in [0, 1]: bytes, or float32 in [0, 1]; an image or a batch.

    In memory `[..., H, W, 3]` a row of pixels is one vector: a tenth of the time of torchvision's transforms.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        self.shift = torch.tensor([-m / s for m, s in zip(mean, std)])
        self.scale = torch.tensor([1 / s for s in std])

    def __call__(self, images: Tensor) -> Tensor:
        shift, scale = self.shift.to(images.device), self.scale.to(images.device)
        scale = scale if images.is_floating_point() else scale / 255
        pixels = images.movedim(-3, -1)
        if not pixels.is_contiguous():
            return torch.mul(images, scale[:, None, None]).add_(shift[:, None, None])
        width = pixels.shape[-2]
        rows = pixels.reshape(-1, 3 * width).float()
        torch.addcmul(shift.repeat(width), rows, scale.repeat(width), out=rows)
        return rows.view(pixels.shape).movedim(-1, -3)


def erasing(share: float, count: int) -> Transform:
    """Return timm's random erasing: noise replaces 1 to `count` rectangles in a `share` of normalised images, in place.

    Raises:
        InputError: a share outside [0, 1], or a count below 1.
    """
    if not (isinstance(share, (int, float)) and 0 <= share <= 1 and isinstance(count, int) and count >= 1):
        raise InputError(
            f"[data] expected erasing in [0, 1] and erasing_count of at least 1, got {share!r} and {count!r}"
        )
    # The loader seeds the CPU's generator, so the noise is drawn there, wherever the images are.
    return RandomErasing(share, mode="pixel", max_count=count, device="cpu")


def _timm(policy: str, size: tuple[int, int], flip: bool, mean: Sequence[float]) -> list[Transform]:
    """Return timm's transforms of PIL images: crop and mirror, then a policy."""
    try:
        crop, change, _ = transforms_imagenet_train(
            size, hflip=0.5 * flip, auto_augment=policy, color_jitter=0.0, interpolation="bicubic", mean=tuple(mean),
            separate=True,
        )  # type: ignore[misc]  # fmt: skip
    except (AssertionError, ValueError) as error:
        raise InputError(f"[data] expected a policy that timm knows, got {policy!r}: {error}") from None
    (augment,) = change.transforms
    for op in augment.ops if hasattr(augment, "ops") else [op for pair in augment.policy for op in pair]:
        if op.aug_fn is posterize:
            op.aug_fn = _posterize
    return [crop, change]


def _posterize(image: Image.Image, bits: int, **settings: Any) -> Image.Image:
    """Posterize as timm does; give black for 0 bits, as older Pillow did (Pillow 13 raises an error)."""
    return posterize(image, bits, **settings) if bits >= 1 else Image.new(image.mode, image.size)
