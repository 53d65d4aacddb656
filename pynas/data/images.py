"""Images and labels, in memory or on disk, and the three parts that a search needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import v2

from pynas.data import augment
from pynas.errors import InputError

if TYPE_CHECKING:
    from pynas.data.loaders import Loader


class Arrays(Dataset):
    """Images in memory: uint8 `[N, 3, H, W]` and labels int64 `[N]`."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index], int(self.labels[index])

    def batch(self, indices: np.ndarray) -> tuple[Tensor, Tensor]:
        """Several at once."""
        where = torch.from_numpy(indices).to(self.images.device)
        return self.images[where], self.labels[where]

    def to(self, device: torch.device) -> Arrays:
        """The same on a device."""
        return Arrays(self.images.to(device), self.labels.to(device))


class Folder(Dataset):
    """Images on disk: (path, label) samples, decoded to PIL when asked for."""

    def __init__(self, samples: Sequence[tuple[str, int]]) -> None:
        self.samples = list(samples)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        from torchvision.datasets.folder import pil_loader

        path, label = self.samples[index]
        try:
            return pil_loader(path), label
        except OSError as error:  # PIL's own errors are OSErrors
            raise InputError(f"[data] expected an image, got {path}: {error}") from None


@dataclass(frozen=True)
class ImageData:
    """A dataset for search: weights train on `train`, paths are rated on `val`, `test` is for the found network alone.

    image_shape: (3, H, W) as the loaders give them; mean, std: per channel, of images in [0, 1]; flip: whether a
    mirrored image keeps its class; fingerprint: 16 hexadecimal digits of the content and the split.
    Another normalisation, say that of a pretrained teacher: `dataclasses.replace(data, mean=..., std=...)`.
    """

    name: str
    train: Arrays | Folder
    val: Arrays | Folder
    test: Arrays | Folder
    num_classes: int
    image_shape: tuple[int, int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    flip: bool
    fingerprint: str

    def transform(self, augmentation: str = "none") -> augment.Transform:
        """ "none", "standard" (crop and flip; random resized crop for files), "strong" (self-supervised views), or timm's
        name of a policy of RandAugment, AutoAugment or AugMix, which follows crop and flip: "rand-m9-mstd0.5-inc1".

        Raises:
            InputError: none of these.
        """
        augment.check(augmentation)
        build = augment.in_memory if isinstance(self.train, Arrays) else augment.from_files
        return build(augmentation, self.image_shape[1:], self.flip, self.mean)

    def loader(
        self,
        part: str,
        batch_size: int,
        augmentation: str = "none",
        *,
        views: int = 1,
        erasing: float = 0.0,
        erasing_count: int = 1,
        **options: Any,
    ) -> Loader:
        """Batches of "train" (shuffled by default), "val" or "test"; `options`: shuffle, repeats, seed, workers, device.

        augmentation: as of `transform`. erasing: the share of images that lose up to `erasing_count` rectangles to noise.
        """
        from pynas.data.loaders import Loader

        if part not in ("train", "val", "test"):
            raise InputError(f"[data] expected a part of train, val, test, got {part!r}")
        transform, mean, std = self.transform(augmentation), self.mean, self.std
        erase = augment.erasing(erasing, erasing_count)
        if erasing:
            # Noise has the mean and deviation of normalised images, so these are normalised before it.
            transform = v2.Compose([transform, augment.normalised(mean, std), erase])
            mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
        options.setdefault("shuffle", part == "train")
        if views > 1:
            transform = augment.Views(transform, views)
        return Loader(getattr(self, part), batch_size, transform, mean, std, **options)


def some_of(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Sorted indices of `count` samples, drawn at random with the classes in equal shares as far as these last.

    Raises:
        InputError: fewer than one sample of each class.
    """
    classes = np.unique(labels)
    if count < len(classes):
        raise InputError(f"[data] expected a limit of at least {len(classes)} images, one per class, got {count}")
    order = np.random.default_rng(seed).permutation(len(labels))
    turn = np.empty(len(labels), np.int64)
    for label in classes:
        of_class = order[labels[order] == label]
        turn[of_class] = np.arange(len(of_class))
    return np.sort(order[np.argsort(turn[order], kind="stable")[:count]])


def stratified_split(labels: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Sorted indices of two parts with the classes in equal shares, the second of about `fraction` of all.

    Raises:
        InputError: a fraction outside [0, 1), or a class too small to be in both parts.
    """
    from sklearn.model_selection import train_test_split

    everything = np.arange(len(labels))
    if not 0 <= fraction < 1:
        raise InputError(f"[data] expected val_fraction in [0, 1), got {fraction}")
    if fraction == 0:
        return everything, everything[:0]
    try:
        rest, part = train_test_split(everything, test_size=fraction, stratify=labels, random_state=seed)
    except ValueError as error:
        raise InputError(f"[data] expected images of every class in both parts of the split, got: {error}") from None
    return np.sort(rest), np.sort(part)
