"""Images in memory and on disk, as the loader reads them."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from pynas.data.decode import decode
from pynas.errors import InputError

AnyStored = TypeVar("AnyStored", bound="Stored")


class Arrays(Dataset):
    """Images in memory: uint8 `[N, 3, H, W]` and labels int64 `[N]`."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index], int(self.labels[index])

    def batch(self, indices: np.ndarray) -> tuple[Tensor, Tensor]:
        """Images and labels at several indices."""
        rows = torch.from_numpy(indices).to(self.images.device)
        return self.images[rows], self.labels[rows]

    def select(self, rows: np.ndarray) -> Arrays:
        """Return the images at several indices, as a dataset."""
        return Arrays(*self.batch(rows))

    def to(self, device: torch.device) -> Arrays:
        """Return a copy on a device."""
        return Arrays(self.images.to(device), self.labels.to(device))


class Stored(Dataset):
    """Images on disk, each decoded when it is read: uint8 `[3, H, W]`, of any size; the base class of sources of files.

    A subclass defines `encoded` and `select`. It holds what grows with the number of images in numpy's arrays, not in lists:
    worker processes share an array's memory, but copy each Python object that they touch.

    labels: int64 `[N]`.
    """

    def __init__(self, labels: np.ndarray) -> None:
        self.labels = labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return decode(*self.encoded(index)), int(self.labels[index])

    @abstractmethod
    def encoded(self, index: int) -> tuple[bytes, str]:
        """Return the bytes of an image file, and its name for messages.

        Raises:
            InputError: bytes that cannot be read.
        """

    def listing(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the images' names, bytes `[N]`, and their sizes in bytes, int64 `[N]`, both part of the fingerprint.

        Here there are no names, and every size is that of the first image.
        """
        size = len(self.encoded(0)[0]) if len(self) else 0
        return np.zeros(len(self), "S1"), np.full(len(self), size, np.int64)

    @abstractmethod
    def select(self: AnyStored, rows: np.ndarray) -> AnyStored:
        """Return the images at several indices, as a dataset."""


class Folder(Stored):
    """Image files: (path, label) samples."""

    def __init__(self, samples: Sequence[tuple[str, int]]) -> None:
        super().__init__(np.array([label for _, label in samples], np.int64))
        self._paths = np.array([os.fsencode(path) for path, _ in samples], np.bytes_)

    @property
    def samples(self) -> list[tuple[str, int]]:
        """List of (path, label)."""
        return [(os.fsdecode(path), label) for path, label in zip(self._paths, self.labels.tolist())]

    def encoded(self, index: int) -> tuple[bytes, str]:
        """Return the bytes of a file, and its path."""
        path = os.fsdecode(self._paths[index])
        return read_file(path), path

    def select(self, rows: np.ndarray) -> Folder:
        """Return the files at several indices, as a dataset."""
        chosen: Any = Folder.__new__(Folder)
        chosen.labels, chosen._paths = self.labels[rows], self._paths[rows]
        return chosen


def read_file(path: str) -> bytes:
    """Return the bytes of an image file.

    Raises:
        InputError: a file that cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise InputError(f"[data] expected an image, got {path}: {error}; mend or remove the file") from None
