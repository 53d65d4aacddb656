"""A dataset in the three parts that a search needs, and how it is split."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torchvision.transforms import v2

from pynas.data import augment
from pynas.data.datasets import Arrays, Stored
from pynas.data.loaders import Loader
from pynas.errors import InputError


@dataclass(frozen=True)
class ImageData:
    """A dataset for search: `train` trains the weights, `val` rates the paths, `test` measures only the found network.

    `load` mixes `val` once, by the seed, so that its batches hold all classes and their statistics are those of the data.
    `train` (which loaders shuffle) and `test` stay in the order of their source, often class by class.

    image_shape: (3, H, W) of the images that the loaders give.
    mean, std: per channel, of images in [0, 1]; replace them for another normalisation, such as a pretrained teacher's:
        `dataclasses.replace(data, mean=..., std=...)`.
    flip: whether a mirrored image keeps its class.
    workers: processes that read images in each of its loaders, None for `pynas.data.loaders.default_workers`.
    fingerprint: 16 hexadecimal digits, a hash of the content, the split and the order of `val`. Of a folder, the content is
        the images' names below it, their sizes and classes, and up to 256 MiB in all their bytes too: more would take
        minutes to read, so that in a larger folder an image that is replaced by one of as many bytes stays unnoticed.
    """

    name: str
    train: Arrays | Stored
    val: Arrays | Stored
    test: Arrays | Stored
    num_classes: int
    image_shape: tuple[int, int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    flip: bool
    fingerprint: str
    workers: int | None = None

    @property
    def crop_pct(self) -> float:
        """Share of the side that is kept of test images: all of those in memory, which are resized whole, 0.875 of files."""
        return 1.0 if isinstance(self.train, Arrays) else augment.KEPT

    def transform(self, augmentation: str = "none") -> augment.Transform:
        """Return the transform of an augmentation, for training images as this dataset holds them.

        augmentation: "none", "standard" (crop and flip; random resized crop for files), "strong" (BYOL's views) or "moco"
            (MoCo v2's); after crop and flip, "jitter-0.4" changes brightness, contrast and saturation by factors in 0.6..1.4,
            and timm's name of a policy of RandAugment, AutoAugment or AugMix, as "rand-m9-mstd0.5-inc1", applies the policy.

        Raises:
            InputError: another augmentation.
        """
        return self._transform(augmentation, later=False)

    def _transform(self, augmentation: str, later: bool) -> augment.Transform:
        augment.check(augmentation)
        settings = augmentation, self.image_shape[1:], self.flip, self.mean
        return augment.in_memory(*settings) if isinstance(self.train, Arrays) else augment.from_files(*settings, later)

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
        """Return a loader of the part "train" (shuffled by default), "val" or "test".

        augmentation: see `transform`.
        views: how often each image is augmented; with more than one, a batch is a list of views.
        erasing: share of the images in which 1 to `erasing_count` rectangles are replaced by noise.
        options: arguments of `Loader`: shuffle, repeats, seed, workers, device, fingerprint.

        On a GPU the colours of images on disk are changed there, after their crop; noise that erases must come after that.
        """
        if part not in ("train", "val", "test"):
            raise InputError(f"[data] expected a part of train, val, test, got {part!r}")
        later = torch.device(options.get("device", "cpu")).type != "cpu" and not erasing
        transform, mean, std = self._transform(augmentation, later), self.mean, self.std
        erase = augment.erasing(erasing, erasing_count)
        if erasing:
            # The noise has mean 0 and deviation 1, so the images must be normalised before it.
            transform = v2.Compose([transform, augment.Normalise(mean, std), erase])
            mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
        options.setdefault("shuffle", part == "train")
        options.setdefault("fingerprint", self.fingerprint)
        options.setdefault("workers", self.workers)
        if views > 1:
            transform = augment.Views(transform, views)
        changes = augment.changes_of(augmentation)
        return Loader(getattr(self, part), batch_size, transform, mean, std, changes=changes, **options)


def some_of(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Sorted indices of `count` samples, drawn at random: equally many of each class, as long as a class has samples left.

    Raises:
        InputError: a count below the number of classes.
    """
    classes = np.unique(labels)
    if count < len(classes):
        raise InputError(f"[data] expected a limit of at least {len(classes)} images, one per class, got {count}")
    order = np.random.default_rng(seed).permutation(len(labels))
    rank_in_class = np.empty(len(labels), np.int64)
    for label in classes:
        of_class = order[labels[order] == label]
        rank_in_class[of_class] = np.arange(len(of_class))
    return np.sort(order[np.argsort(rank_in_class[order], kind="stable")[:count]])


def count_classes(train: np.ndarray, test: np.ndarray, name: str) -> int:
    """Return the number of classes of a data set; train, test: labels int64 `[N]`; name: for messages.

    Raises:
        InputError: fewer than two classes, training labels that are not 0..C-1 without gaps, no test labels or others.
    """
    present = np.unique(train)
    classes = len(present)
    if classes < 2:
        raise InputError(f"[data] expected at least 2 classes, got {classes} in {name}")
    if present[0] != 0 or present[-1] != classes - 1:
        missing = int(np.setdiff1d(np.arange(classes), present)[0])
        raise InputError(f"[data] expected training labels 0..C-1 without gaps, got {classes} in {present[0]}..{present[-1]} "
                         f"and no image of class {missing} in {name}; number the classes anew")  # fmt: skip
    if not len(test):
        raise InputError(f"[data] expected test images, got none in {name}")
    if test.min() < 0 or test.max() >= classes:
        raise InputError(f"[data] expected test labels in 0..{classes - 1}, got {test.min()}..{test.max()} in {name}")
    return classes


@dataclass(frozen=True)
class Split:
    """Which training images are used, and which of these are split off for rating, each class in its share.

    fraction: share that is split off, None for 0.2. images: split off so many instead; where that is more than the share
    `at_most` of the training images (None: any), that share is split off. limit: use so many training images, equally many of
    each class; None for all. seed: of all that is drawn.

    Raises:
        InputError: both a fraction and a number of images, a number below 1, or a seed outside 0..2^32-1.
    """

    fraction: float | None = None
    images: int | None = None
    at_most: float | None = None
    limit: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**32:
            raise InputError(f"[data] expected a seed in 0..{2**32 - 1}, got {self.seed}")
        if self.images is not None and self.fraction is not None:
            raise InputError(f"[data] expected val_fraction or val_images, got both, {self.fraction} and {self.images}; "
                             "leave one out")  # fmt: skip
        if self.images is not None and self.images < 1:
            raise InputError(f"[data] expected val_images of at least 1, got {self.images}")

    def limited(self, labels: np.ndarray) -> np.ndarray | None:
        """Return the sorted indices of the images that the limit keeps, None for all."""
        keeps_all = self.limit is None or self.limit >= len(labels)
        return None if keeps_all else some_of(labels, self.limit, self.seed)  # type: ignore[arg-type]

    def parts(self, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the indices of the training part, and of the part that is split off, see `search_split`."""
        if self.images is None:
            share: float | int = 0.2 if self.fraction is None else float(self.fraction)
        elif self.at_most is not None and self.images > self.at_most * len(labels):
            share = self.at_most
        else:
            share = self.images
        return search_split(labels, share, self.seed)


def search_split(labels: np.ndarray, share: float | int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the training part, sorted, and of the validation part, in a random order.

    Sources sort their images by class; a batch of one class has other statistics than the data, and other scores.

    Raises:
        InputError: see `stratified_split`.
    """
    train, val = stratified_split(labels, share, seed)
    return train, np.random.default_rng(seed).permutation(val)


def stratified_split(labels: np.ndarray, share: float | int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Sorted indices of two parts, in which each class has the share that it has in the whole.

    share: of the second part, in [0, 1); a whole number above 0: so many images.

    Raises:
        InputError: a share outside [0, 1), as many images as there are, or a class with too few images for both parts.
    """
    from sklearn.model_selection import train_test_split

    indices = np.arange(len(labels))
    name = "val_images" if isinstance(share, int) and share else "val_fraction"
    if not 0 <= share < (len(labels) if name == "val_images" else 1):
        rule = f"below the {len(labels)} training images" if name == "val_images" else "in [0, 1)"
        raise InputError(f"[data] expected {name} {rule}, got {share}")
    if share == 0:
        return indices, indices[:0]
    try:
        first, second = train_test_split(indices, test_size=share, stratify=labels, random_state=seed)
    except ValueError as error:
        raise InputError(f"[data] expected images of every class in both parts of the split, got: {error}; "
                         f"choose another {name}") from None  # fmt: skip
    return np.sort(first), np.sort(second)
