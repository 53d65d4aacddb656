"""Classification data sets of torchvision, by the names of their classes."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pynas.data.datasets import Folder, Stored
from pynas.data.decode import to_rgb
from pynas.errors import InputError

# Values of `split` for the training and for the test part; the first that a class takes.
_TRAIN, _TEST = ("train", "trainval"), ("test", "val", "valid")
# Attributes of torchvision's data sets: labels, paths of files, and (path, label) pairs.
_LABELS = ("targets", "labels", "_labels")
_PATHS = ("_image_files", "_images")
_PAIRS = ("samples", "_samples", "imgs")


class Items(Stored):
    """Items of a data set of torchvision that keeps its images in a form of its own; each is read when it is needed.

    dataset: gives (PIL image, label). rows: int64 `[N]`, the images' places in it.
    """

    def __init__(self, dataset: Any, labels: np.ndarray, rows: np.ndarray) -> None:
        super().__init__(labels)
        self._dataset, self._rows = dataset, rows

    def encoded(self, index: int) -> tuple[bytes, str]:
        """Return the image as a PPM file, which holds the pixels as they are, and its place in the data set."""
        row = int(self._rows[index])
        name = f"item {row} of {type(self._dataset).__name__}"
        try:
            image = to_rgb(self._dataset[row][0])
        except Exception as error:  # readers of many formats each raise their own
            raise InputError(f"[data] expected an image, got {' '.join(str(error).split())} for {name}; "
                             "mend the data set") from None  # fmt: skip
        return b"P6 %d %d 255\n" % image.size + image.tobytes(), name

    def select(self, rows: np.ndarray) -> Items:
        """Return the items at several indices, as a dataset."""
        return Items(self._dataset, self.labels[rows], self._rows[rows])


def read_torchvision(name: str, root: str | Path, download: bool = False) -> tuple[Any, Any]:
    """Return the training and the test part of a data set of torchvision.

    Each part is a `Stored` data set, or images in memory: uint8 `[N, H, W, C]` (or without C) and labels `[N]`.
    The test part is the split "test", else "val".

    name: of a class of `torchvision.datasets`. root: folder that holds the data, as its constructor takes it. download: whether
    torchvision gets what is missing.

    Raises:
        InputError: no such class, one without a training and a test part or with other targets than whole numbers, or missing
            files.
    """
    import torchvision

    made: Any = getattr(torchvision.datasets, name, None) if name in torchvision.datasets.__all__ else None
    if not isinstance(made, type):
        raise InputError(f"[data] expected a class of torchvision.datasets, as torchvision:CIFAR100, got {name!r}")
    taken = inspect.signature(made).parameters
    options: dict[str, Any] = {"download": download} if "download" in taken else {}

    def make(**chosen: Any) -> Any:
        try:
            return made(str(root), **chosen, **options)
        except (RuntimeError, OSError) as error:
            download = (
                f"get it once by torchvision.datasets.{name}(..., download=True)" if options else "put its files there"
            )
            raise InputError(
                f"[data] expected torchvision's {name} in the folder {str(root)!r}, got {' '.join(str(error).split())}; "
                f"{download}, or give the folder that holds it as root"
            ) from None

    if "train" in taken:
        return _part(make(train=True)), _part(make(train=False))
    if "split" in taken:
        return _part(_first(make, _TRAIN, name)), _part(_first(make, _TEST, name))
    raise InputError(f"[data] expected a data set of torchvision with a training and a test part, got {name}; write its images as "
                     "train/CLASS/* and val/CLASS/*")  # fmt: skip


def _first(make: Callable[..., Any], splits: tuple[str, ...], name: str) -> Any:
    """Return the data set of the first split that its class takes."""
    refused = ""
    for split in splits:
        try:
            return make(split=split)
        except InputError:  # a ValueError too
            raise
        except (ValueError, TypeError) as error:
            refused = refused or " ".join(str(error).split())
    raise InputError(f"[data] expected a split of {', '.join(splits)} in torchvision's {name}, got: {refused}")


def _part(dataset: Any) -> Any:
    """Return a data set as arrays, as files, or as items."""
    labels = _labels_of(dataset)
    content = getattr(dataset, "data", None)
    if isinstance(content, (np.ndarray, torch.Tensor)):
        return _channels_last(np.asarray(content)), labels
    paths = _held(dataset, _PATHS)
    if paths is None:
        paths = [path for path, _ in _held(dataset, _PAIRS) or ()]
    if len(paths) and isinstance(paths[0], (str, os.PathLike)):
        return Folder(list(zip(map(os.fspath, paths), labels.tolist())))
    return Items(dataset, labels, np.arange(len(labels)))


def _channels_last(images: np.ndarray) -> np.ndarray:
    """Return images `[N, H, W, C]` of `[N, C, H, W]`, as SVHN and STL10 hold them; others pass unchanged."""
    channels_first = images.ndim == 4 and images.shape[1] in (1, 3) and images.shape[3] not in (1, 3)
    return images.transpose(0, 2, 3, 1) if channels_first else images


def _held(dataset: Any, names: tuple[str, ...]) -> Any:
    """Return the first attribute of these names that has an entry for each item, None where there is none."""
    for name in names:
        value = getattr(dataset, name, None)
        if isinstance(value, (list, np.ndarray, torch.Tensor)) and len(value) == len(dataset):
            return value
    return None


def _labels_of(dataset: Any) -> np.ndarray:
    """Return the labels of a data set, int64 `[N]`; where it keeps no list of them, every item is read."""
    held, pairs = _held(dataset, _LABELS), _held(dataset, _PAIRS)
    if held is not None:
        labels = np.asarray(held)
    elif pairs is not None:
        labels = np.asarray([label for _, label in pairs])
    else:
        whole = isinstance(dataset[0][1], (int, np.integer))
        labels = np.asarray([dataset[row][1] for row in range(len(dataset) if whole else 1)])
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise InputError(f"[data] expected a whole number as class of every image, got {labels.dtype} of shape {labels.shape} in "
                         f"torchvision's {type(dataset).__name__}; it is no data set of classes")  # fmt: skip
    return labels.astype(np.int64)
