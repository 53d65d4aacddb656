"""Datasets in memory and on disk, and a loader of them that resumes exactly: (seed, epoch, step) decide a batch."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pynas.data.augment import Transform, normalised
from pynas.data.decode import read_image
from pynas.errors import InputError


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

    def to(self, device: torch.device) -> Arrays:
        """Return a copy on a device."""
        return Arrays(self.images.to(device), self.labels.to(device))


class Folder(Dataset):
    """Images on disk: (path, label) samples, each decoded by `read_image` to a PIL image when it is read."""

    def __init__(self, samples: Sequence[tuple[str, int]]) -> None:
        self.samples = list(samples)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        path, label = self.samples[index]
        return read_image(path), label


@contextmanager
def seeded(*key: int) -> Iterator[None]:
    """Seed torch (CPU), numpy and `random` with a key of integers for a while, then restore their states."""
    first, second = np.random.SeedSequence(key).generate_state(2, np.uint64).tolist()
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()  # noqa: NPY002 (timm draws from it)
    torch.random.default_generator.manual_seed(first)
    random.seed(second)
    np.random.seed(second % 2**32)  # noqa: NPY002
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        random.setstate(states[1])
        np.random.set_state(states[2])  # noqa: NPY002


class Loader:
    """Batches `(images, labels)` of one epoch: float32 `[B, 3, H, W]` (a list of them for views), int64 `[B]`.

    The seed and the epoch decide the order. The transform gets images in memory as one batch, seeded by (seed, epoch,
    step), and images on disk one by one, seeded by (seed, epoch, index, repeat). So a batch does not depend on the number
    of workers, nor on the step that a run resumes from: call `set_epoch(epoch, start)`, then iterate.

    repeats: repeated augmentation (Hoffer et al., 2020; timm's RepeatAugSampler): each image comes `repeats` times in a
        row, augmented anew each time. The number of batches stays, so an epoch sees only 1/`repeats` of the images.
    fingerprint: of the images, which checkpoints are compared with; None where it is not known.

    Raises:
        InputError: no images, fewer than one batch, or repeats without shuffling.
    """

    def __init__(
        self,
        dataset: Arrays | Folder,
        batch_size: int,
        transform: Transform,
        mean: Sequence[float],
        std: Sequence[float],
        *,
        shuffle: bool = False,
        repeats: int = 1,
        seed: int = 0,
        workers: int = 0,
        device: str | torch.device = "cpu",
        fingerprint: str | None = None,
    ) -> None:
        if batch_size < 1 or len(dataset) < (batch_size if shuffle else 1):
            rule = f"at least one batch of {batch_size} images" if batch_size > 0 else "a batch size of at least 1"
            raise InputError(f"[loader] expected {rule}, got {len(dataset)} images; choose another batch size or split")
        if not isinstance(repeats, int) or repeats < 1 or (repeats > 1 and not shuffle):
            raise InputError(f"[loader] expected whole repeats of at least 1, and 1 without shuffling, got {repeats!r}")
        self.dataset, self.batch_size, self.shuffle, self.repeats = dataset, batch_size, shuffle, repeats
        self.seed, self.workers, self.device = seed, workers, torch.device(device)
        self.fingerprint, self.epoch, self.start = fingerprint, 0, 0
        # Images in memory move to the device once, unless other processes have to reach them.
        source = dataset.to(self.device) if isinstance(dataset, Arrays) and workers == 0 else dataset
        self._fetch = _Fetch(source, transform, seed)
        self._finish = partial(_finish, normalise=normalised(mean, std), device=self.device)

    def __len__(self) -> int:
        """Batches in a whole epoch; where images are shuffled, an incomplete last batch is left out."""
        whole, rest = divmod(len(self.dataset), self.batch_size)
        return whole + (rest > 0 and not self.shuffle)

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Set the epoch of the next iteration, and the batch that it starts from."""
        self.epoch, self.start = epoch, start

    def share(self, own: int, size: int) -> Loader:
        """Return the loader of process `own` of `size`: every `size`-th image of each batch, augmented as in the batch.

        Raises:
            InputError: batches that `size` processes cannot share equally.
        """
        last = 0 if self.shuffle else len(self.dataset) % self.batch_size
        if self.batch_size % size or last % size:
            raise InputError(f"[loader] expected batches that {size} processes share equally, got {self.batch_size} images"
                             f"{f' and a last one of {last}' if last else ''}; use another batch size")  # fmt: skip
        shared = copy.copy(self)
        shared._fetch = self._fetch.share(slice(own, None, size))
        return shared

    def __iter__(self) -> Iterator[tuple[Any, Tensor]]:
        order = np.arange(len(self.dataset))
        if self.shuffle:
            order = np.random.default_rng([self.seed, self.epoch]).permutation(len(order))
        repeat = np.arange(len(order)) % self.repeats
        order = np.repeat(order, self.repeats)[: len(order)]
        rows = [slice(step * self.batch_size, (step + 1) * self.batch_size) for step in range(len(self))]
        keys = [(self.epoch, step, order[rows[step]], repeat[rows[step]]) for step in range(self.start, len(self))]
        # Without its own generator, a DataLoader draws from the global one, and a resumed run would differ.
        loader = DataLoader(
            self._fetch,
            batch_size=None,
            sampler=keys,
            num_workers=self.workers,
            generator=torch.Generator(),
            pin_memory=self.device.type == "cuda" and self.workers > 0,
        )
        return map(self._finish, loader)


class _Fetch(Dataset):
    """Maps (epoch, step, indices, repeats) to a batch of images and labels.

    repeats: how often each index came before, in a row. part: the images of each batch that this process gets.
    """

    def __init__(self, dataset: Arrays | Folder, transform: Transform, seed: int, part: slice = slice(None)) -> None:
        self.dataset, self.transform, self.seed, self.part = dataset, transform, seed, part

    def share(self, part: slice) -> _Fetch:
        """Return a copy that gives only a part of each batch."""
        return _Fetch(self.dataset, self.transform, self.seed, part)

    def __getitem__(self, key: tuple[int, int, np.ndarray, np.ndarray]) -> tuple[Any, Tensor] | InputError:
        try:
            return self._batch(*key)
        except InputError as error:  # raised in a worker, its message would contain the traceback
            return error

    def _batch(self, epoch: int, step: int, indices: np.ndarray, repeats: np.ndarray) -> tuple[Any, Tensor]:
        if isinstance(self.dataset, Arrays):
            images, labels = self.dataset.batch(indices)
            with seeded(self.seed, epoch, step):
                images = self.transform(images)  # on the whole batch, so that a part of it does not depend on `part`
            views = [view[self.part] for view in images] if isinstance(images, list) else images[self.part]
            return views, labels[self.part]
        drawn = zip(indices[self.part].tolist(), repeats[self.part].tolist())
        images, labels = torch.utils.data.default_collate([self._sample(epoch, *pair) for pair in drawn])
        return images, labels

    def _sample(self, epoch: int, index: int, repeat: int) -> tuple[Any, int]:
        image, label = self.dataset[index]
        with seeded(self.seed, epoch, index, repeat):
            return self.transform(image), label


def _finish(
    batch: tuple[Any, Tensor] | InputError, normalise: Callable[[Tensor], Tensor], device: torch.device
) -> tuple[Any, Tensor]:
    """Move a batch to the device as bytes and normalise it there; raise the error that its worker returned."""
    if isinstance(batch, InputError):
        raise batch
    images, labels = batch
    move = partial(torch.Tensor.to, device=device, non_blocking=True)
    finished = [normalise(move(view)) for view in images] if isinstance(images, list) else normalise(move(images))
    return finished, move(labels)
