"""Loaders that resume exactly: a batch is a function of (seed, epoch, step), whichever step the run starts from."""

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
from pynas.data.images import Arrays, Folder
from pynas.errors import InputError


@contextmanager
def seeded(*key: int) -> Iterator[None]:
    """Seed torch (CPU), numpy and `random` by a key of integers, and put their states back afterwards."""
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

    The order comes from (seed, epoch); the randomness of the transform from (seed, epoch, step) for images in memory,
    which it gets as one batch, and from (seed, epoch, index, turn) for images on disk, which it gets one by one. So every
    batch is the same with any number of workers and wherever a run resumes: `set_epoch(epoch, start)`, then iterate.

    repeats: repeated augmentation (Hoffer et al., 2020; timm's RepeatAugSampler): an epoch has as many batches as ever,
    of a `repeats`-th of the images, each that many times in a row with a draw of its own.

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
    ) -> None:
        if batch_size < 1 or len(dataset) < (batch_size if shuffle else 1):
            rule = f"at least one batch of {batch_size} images" if batch_size > 0 else "a batch size of at least 1"
            raise InputError(f"[loader] expected {rule}, got {len(dataset)} images; choose another batch size or split")
        if not isinstance(repeats, int) or repeats < 1 or (repeats > 1 and not shuffle):
            raise InputError(f"[loader] expected whole repeats of at least 1, and 1 without shuffling, got {repeats!r}")
        self.dataset, self.batch_size, self.shuffle, self.repeats = dataset, batch_size, shuffle, repeats
        self.seed, self.workers, self.device = seed, workers, torch.device(device)
        self.epoch, self.start = 0, 0
        # Images in memory move to the device once, unless other processes have to reach them.
        source = dataset.to(self.device) if isinstance(dataset, Arrays) and workers == 0 else dataset
        self._fetch = _Fetch(source, transform, seed)
        self._finish = partial(_finish, normalise=normalised(mean, std), device=self.device)

    def __len__(self) -> int:
        """Batches in a whole epoch; shuffled batches are all full, the rest waits for another epoch."""
        whole, rest = divmod(len(self.dataset), self.batch_size)
        return whole + (rest > 0 and not self.shuffle)

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Choose what the next iteration gives: this epoch, from batch `start` on."""
        self.epoch, self.start = epoch, start

    def share(self, own: int, size: int) -> Loader:
        """Every size-th image of each batch, from `own` on: what process `own` of `size` trains on. Images and their
        augmentation are those of the whole batch.

        Raises:
            InputError: batches that `size` processes cannot share equally.
        """
        rest = 0 if self.shuffle else len(self.dataset) % self.batch_size
        if self.batch_size % size or rest % size:
            raise InputError(f"[loader] expected batches that {size} processes share equally, got {self.batch_size} images"
                             f"{f' and a last one of {rest}' if rest else ''}; use another batch size")  # fmt: skip
        shared = copy.copy(self)
        shared._fetch = self._fetch.share(slice(own, None, size))
        return shared

    def __iter__(self) -> Iterator[tuple[Any, Tensor]]:
        order = np.arange(len(self.dataset))
        if self.shuffle:
            order = np.random.default_rng([self.seed, self.epoch]).permutation(len(order))
        turns = np.arange(len(order)) % self.repeats
        order = np.repeat(order, self.repeats)[: len(order)]
        parts = [slice(step * self.batch_size, (step + 1) * self.batch_size) for step in range(len(self))]
        keys = [(self.epoch, step, order[parts[step]], turns[parts[step]]) for step in range(self.start, len(self))]
        # Without a generator of its own, a DataLoader draws from the global state and a resumed run would differ.
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
    """Maps (epoch, step, indices, turns) to a batch of images and labels; turns: how often each index came before."""

    def __init__(self, dataset: Arrays | Folder, transform: Transform, seed: int, part: slice = slice(None)) -> None:
        self.dataset, self.transform, self.seed, self.part = dataset, transform, seed, part

    def share(self, part: slice) -> _Fetch:
        """The same for a part of each batch."""
        return _Fetch(self.dataset, self.transform, self.seed, part)

    def __getitem__(self, key: tuple[int, int, np.ndarray, np.ndarray]) -> tuple[Any, Tensor] | InputError:
        try:
            return self._batch(*key)
        except InputError as error:  # raised in a worker, it would come out with a traceback for a message
            return error

    def _batch(self, epoch: int, step: int, indices: np.ndarray, turns: np.ndarray) -> tuple[Any, Tensor]:
        if isinstance(self.dataset, Arrays):
            images, labels = self.dataset.batch(indices)
            with seeded(self.seed, epoch, step):
                images = self.transform(images)  # draws for the whole batch, so a part of it is what it is in the whole
            views = [view[self.part] for view in images] if isinstance(images, list) else images[self.part]
            return views, labels[self.part]
        samples = [self._sample(epoch, *which) for which in zip(indices[self.part].tolist(), turns[self.part].tolist())]
        images, labels = torch.utils.data.default_collate(samples)
        return images, labels

    def _sample(self, epoch: int, index: int, turn: int) -> tuple[Any, int]:
        image, label = self.dataset[index]
        with seeded(self.seed, epoch, index, turn):
            return self.transform(image), label


def _finish(
    batch: tuple[Any, Tensor] | InputError, normalise: Callable[[Tensor], Tensor], device: torch.device
) -> tuple[Any, Tensor]:
    """Normalise on the device, so that only bytes travel; raise what the fetching met."""
    if isinstance(batch, InputError):
        raise batch
    images, labels = batch
    move = partial(torch.Tensor.to, device=device, non_blocking=True)
    finished = [normalise(move(view)) for view in images] if isinstance(images, list) else normalise(move(images))
    return finished, move(labels)
