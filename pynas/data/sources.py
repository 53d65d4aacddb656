"""Load images: scikit-learn's digits, .npz files, CIFAR, folders of images, and what the libraries of others read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torchvision.transforms import v2

from pynas.data.datasets import Arrays, Folder, Stored
from pynas.data.decode import class_folders
from pynas.data.hub import read_hub
from pynas.data.images import ImageData, Split, count_classes, stratified_split
from pynas.data.on_disk import contents_of, fingerprint, folder_contents, split_stored
from pynas.data.shards import read_shards
from pynas.data.vision import read_torchvision
from pynas.errors import InputError

NAMES = ("digits", "cifar10", "cifar100")
_KEYS = ("x_train", "y_train", "x_test", "y_test")

Raw = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def load(
    name: str | Path,
    image_size: int | None = None,
    *,
    val_fraction: float | None = None,
    val_images: int | None = None,
    val_at_most: float | None = None,
    limit: int | None = None,
    seed: int = 0,
    root: str | Path = "data",
    download: bool = False,
    flip: bool | None = None,
) -> ImageData:
    """Load images by name or path, and split some of the training part off for rating, each class in its share.

    name: "digits" (scikit-learn's 8x8 handwritten digits, 32x32 by default); "cifar10" or "cifar100" (torchvision's
        copy under `root`); a .npz file with x_train, y_train, x_test, y_test (uint8 `[N, H, W]` or `[N, H, W, 1 or 3]`,
        labels 0..C-1); a folder with train/CLASS/* and val/CLASS/* (224x224 by default), whose val/ is the test part, see
        `pynas.data.decode` for the files that count as images and how their pixels are read; "torchvision:NAME" for a class of
        torchvision.datasets with its files under `root` (`pynas.data.vision`); "hf:NAME", "hf:NAME:CONFIG" or "hf:FOLDER", see
        `pynas.data.hub`; training shards of webdataset, as "shards/train-{000..127}.tar" (`pynas.data.shards`).
    image_size: side that the images are resized to, bilinearly.
    val_fraction: share of the training images that is split off, 0.2 by default. val_images: split off so many instead;
        where that is more than the share `val_at_most` of them, that share is split off (None: so many in any case).
    limit: number of training images to use, equally many of each class; None for all.
    seed: of the split, of the order of the images to rate on, and of the images that `limit` keeps.
    download: whether torchvision gets data sets that `root` lacks.
    flip: whether a mirrored image keeps its class; None for yes, except for digits.

    Raises:
        InputError: an unknown name, missing or malformed data, one class only, a class too small to split, or both
            `val_fraction` and `val_images`.
    """
    path = Path(name)
    if image_size is not None and image_size < 1:
        raise InputError(f"[data] expected an image size of at least 1, got {image_size}")
    split = Split(val_fraction, val_images, val_at_most, limit, seed)
    if name == "digits":
        return _in_memory("digits", _digits(), image_size or 32, split, bool(flip))
    mirrored = flip is None or flip
    if name in ("cifar10", "cifar100"):
        parts = read_torchvision(str(name).upper(), root, download)
        return _torchvision(str(name), parts, root, image_size, split, mirrored)
    kind, _, rest = str(name).partition(":")
    if kind == "hf" and rest:
        return split_stored(rest, *read_hub(rest), split, image_size or 224, mirrored)
    if kind == "torchvision" and rest:
        return _torchvision(rest, read_torchvision(rest, root, download), root, image_size, split, mirrored)
    if path.suffix == ".tar":
        return split_stored(str(name), *read_shards(str(name)), split, image_size or 224, mirrored)
    if path.is_dir():
        return _folder(path, image_size or 224, split, mirrored)
    if path.is_file():
        return _in_memory(path.stem, _npz(path), image_size, split, mirrored)
    raise InputError(
        f"[data] expected {', '.join(NAMES)}, torchvision:NAME, hf:NAME, shards as train-{{000..127}}.tar, a .npz file or a "
        f"folder, got {str(name)!r}, which does not exist"
    )


def _digits() -> Raw:
    """The 1,797 digits of scikit-learn, a fixed fifth of them for test, with grey levels scaled from 0..16 to 0..255."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images, labels = np.round(digits.images * (255 / 16)).astype(np.uint8), digits.target
    train, test = stratified_split(labels, 0.2, seed=0)
    return images[train], labels[train], images[test], labels[test]


def _npz(path: Path) -> Raw:
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            missing = [key for key in _KEYS if key not in file.files]
            if missing:
                raise InputError(f"[data] expected {', '.join(_KEYS)} in {path}, got no {', '.join(missing)}")
            x_train, y_train, x_test, y_test = (file[key] for key in _KEYS)
    except InputError:
        raise
    except Exception as error:  # numpy, zipfile and zlib each raise their own
        raise InputError(f"[data] expected a whole .npz file without pickles, got {path}: {error}") from None
    return x_train, y_train, x_test, y_test


def _in_memory(name: str, raw: Raw, image_size: int | None, split: Split, flip: bool) -> ImageData:
    x_train, x_test = _check_images(raw[0], "x_train"), _check_images(raw[2], "x_test")
    if x_train.shape[1:] != x_test.shape[1:]:
        raise InputError(
            f"[data] expected one image size, got {x_train.shape[1:]} in train, {x_test.shape[1:]} in test"
        )
    y_train, y_test = _check_labels(raw[1], len(x_train), "y_train"), _check_labels(raw[3], len(x_test), "y_test")
    num_classes = count_classes(y_train, y_test, name)
    kept = split.limited(y_train)
    if kept is not None:
        x_train, y_train = x_train[kept], y_train[kept]
    train, val = split.parts(y_train)
    hashed = [x_train, y_train, x_test, y_test, np.asarray([image_size or 0]), train, val]
    images, test = _to_tensor(x_train, image_size), _to_tensor(x_test, image_size)
    mean, std = _statistics(images[train])
    return ImageData(
        name=name,
        train=Arrays(images[train], torch.from_numpy(y_train[train])),
        val=Arrays(images[val], torch.from_numpy(y_train[val])),
        test=Arrays(test, torch.from_numpy(y_test)),
        num_classes=num_classes,
        image_shape=(3, *images.shape[2:]),
        mean=mean,
        std=std,
        flip=flip,
        fingerprint=fingerprint(array.tobytes() for array in hashed),
    )


def _check_images(images: np.ndarray, key: str) -> np.ndarray:
    """Return images as `[N, H, W, 1 or 3]`, checked."""
    if images.dtype != np.uint8:
        raise InputError(
            f"[data] expected uint8 images in {key}, got {images.dtype}; scale them to 0..255 and convert them"
        )
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or 0 in images.shape:
        raise InputError(
            f"[data] expected images [N, H, W] or [N, H, W, 1 or 3] in {key}, got the shape {images.shape}"
        )
    return images


def _check_labels(labels: np.ndarray, count: int, key: str) -> np.ndarray:
    """Return labels `[N]` or `[N, 1]` as int64 `[N]`, checked."""
    if not np.issubdtype(labels.dtype, np.integer) or labels.shape not in ((count,), (count, 1)):
        raise InputError(f"[data] expected {count} whole numbers in {key}, got {labels.dtype} of shape {labels.shape}")
    return labels.reshape(-1).astype(np.int64)


def _to_tensor(images: np.ndarray, image_size: int | None) -> torch.Tensor:
    """Convert uint8 `[N, H, W, C]` to uint8 `[N, 3, H, W]`; resize in float32, so that every machine gets the same bytes."""
    tensor = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    if image_size is not None and tensor.shape[2:] != (image_size, image_size):
        parts = [
            v2.functional.resize(part.float(), [image_size, image_size], antialias=True).round().clamp(0, 255).byte()
            for part in tensor.split(1024)
        ]
        tensor = torch.cat(parts)
    return tensor.expand(-1, 3, -1, -1).contiguous()


def _statistics(images: torch.Tensor) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Mean and standard deviation per channel, computed exactly from the histogram of the 256 values."""
    values = torch.arange(256, dtype=torch.float64) / 255
    weights = torch.stack([torch.bincount(images[:, c].flatten(), minlength=256) for c in range(3)]).double()
    weights /= weights.sum(1, keepdim=True)
    mean = weights @ values
    # Images of a single value have deviation 0; any positive number normalises them to zero.
    std = (weights @ values**2 - mean**2).clamp_min(255.0**-2).sqrt()
    return tuple(mean.tolist()), tuple(std.tolist())  # type: ignore[return-value]


def _folder(path: Path, image_size: int, split: Split, flip: bool) -> ImageData:
    (classes, samples), (test_classes, test) = (class_folders(path / part) for part in ("train", "val"))
    if classes != test_classes:
        differing = sorted(set(classes) ^ set(test_classes))
        raise InputError(
            f"[data] expected the same classes in {path}/train and {path}/val, got {differing[:5]} in one only"
        )
    name, contents = path.resolve().name, folder_contents(path)
    return split_stored(name, Folder(samples), Folder(test), split, image_size, flip, contents)


def _torchvision(
    name: str, parts: tuple[Any, Any], root: str | Path, image_size: int | None, split: Split, flip: bool
) -> ImageData:
    train, test = parts
    if not isinstance(train, Stored):
        return _in_memory(name, (*train, *test), image_size, split, flip)
    contents = folder_contents(Path(root).expanduser()) if isinstance(train, Folder) else contents_of
    return split_stored(name, train, test, split, image_size or 224, flip, contents)
