"""Loader of images that resumes exactly: (seed, epoch, step) decide a batch, whatever the number of its workers."""

from __future__ import annotations

import copy
import os
import random
import sys
import weakref
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from pynas.data.augment import Normalise, Transform, Unfinished
from pynas.data.datasets import Arrays, Stored
from pynas.data.strong import Changes
from pynas.errors import InputError
from pynas.quantities import from_environment


@contextmanager
def kept_generators() -> Iterator[None]:
    """Restore the states of the generators of torch (CPU), numpy and `random` in the end."""
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()  # noqa: NPY002 (timm draws from it)
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        random.setstate(states[1])
        np.random.set_state(states[2])  # noqa: NPY002


def seed_generators(*key: int) -> None:
    """Seed torch (CPU), numpy and `random` with a key of integers."""
    first, second = np.random.SeedSequence(key).generate_state(2, np.uint64).tolist()
    torch.random.default_generator.manual_seed(first)
    random.seed(second)
    np.random.seed(second % 2**32)  # noqa: NPY002


@contextmanager
def seeded(*key: int) -> Iterator[None]:
    """Seed the generators with a key of integers for a while, then restore their states."""
    with kept_generators():
        seed_generators(*key)
        yield


def default_workers(dataset: Dataset, device: torch.device) -> int:
    """Return the processes that read images where the user names no number.

    None for images in memory, and where the device is the CPU, whose cores the training takes. Beside a GPU, the cores that this
    process may use, shared with the other processes of torchrun on this machine; at most 16.
    """
    if isinstance(dataset, Arrays) or device.type == "cpu":
        return 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(16, max(1, cores // from_environment("LOCAL_WORLD_SIZE", "1")))


class Loader:
    """Batches `(images, labels)` of one epoch: float32 `[B, 3, H, W]` (a list of them for views), int64 `[B]`.

    The seed and the epoch decide the order. The transform gets images in memory as one batch, seeded by (seed, epoch,
    step), and images on disk one by one, seeded by (seed, epoch, index, repeat). So a batch does not depend on the number
    of workers, nor on the step that a run resumes from: call `set_epoch(epoch, start)`, then iterate.

    workers: processes that read and augment images, as torch's DataLoader has them; they stay from epoch to epoch. None for
        `default_workers`, 0 for this process.
    changes: changes the colours of `Unfinished` images, which the transform gives, on the device.

    repeats: repeated augmentation (Hoffer et al., 2020; timm's RepeatAugSampler): each image comes `repeats` times in a
        row, augmented anew each time. The number of batches stays, so an epoch sees only 1/`repeats` of the images.
    fingerprint: of the images, which checkpoints are compared with; None where it is not known.

    Raises:
        InputError: no images, fewer than one batch, or repeats without shuffling.
    """

    def __init__(
        self,
        dataset: Arrays | Stored,
        batch_size: int,
        transform: Transform,
        mean: Sequence[float],
        std: Sequence[float],
        *,
        shuffle: bool = False,
        repeats: int = 1,
        seed: int = 0,
        workers: int | None = None,
        changes: Changes | None = None,
        device: str | torch.device = "cpu",
        fingerprint: str | None = None,
    ) -> None:
        if batch_size < 1 or len(dataset) < (batch_size if shuffle else 1):
            rule = f"at least one batch of {batch_size} images" if batch_size > 0 else "a batch size of at least 1"
            raise InputError(f"[loader] expected {rule}, got {len(dataset)} images; choose another batch size or split")
        if not isinstance(repeats, int) or repeats < 1 or (repeats > 1 and not shuffle):
            raise InputError(f"[loader] expected whole repeats of at least 1, and 1 without shuffling, got {repeats!r}")
        self.dataset, self.batch_size, self.shuffle, self.repeats = dataset, batch_size, shuffle, repeats
        self.seed, self.device, self.fingerprint = seed, torch.device(device), fingerprint
        self.workers = default_workers(dataset, self.device) if workers is None else workers
        if self.workers < 0:
            raise InputError(f"[loader] expected workers of at least 0, got {workers}")
        self.epoch, self.start = 0, 0
        # Images in memory move to the device once, unless other processes have to reach them.
        source = dataset.to(self.device) if isinstance(dataset, Arrays) and self.workers == 0 else dataset
        self._fetch = _Fetch(source, transform, seed)
        self._finish = partial(_finish, changes=changes, normalise=Normalise(mean, std), device=self.device)
        self._reader: DataLoader | None = None
        self._iteration: Any = None  # reference to the last iteration that the workers serve

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
        shared._fetch, shared._reader, shared._iteration = self._fetch.share(slice(own, None, size)), None, None
        return shared

    def __iter__(self) -> Iterator[tuple[Any, Tensor]]:
        # Workers that stay serve one iteration at a time; another one beside it gets workers of its own.
        before = None if self._iteration is None else self._iteration()
        if self.workers == 0 or (before is not None and before.gi_frame is not None):
            return self._batches(self._new_reader(persistent=False))
        self._reader = self._reader or self._new_reader(persistent=True)
        iteration = self._batches(self._reader)
        self._iteration = weakref.ref(iteration)
        return iteration

    def _batches(self, reader: DataLoader) -> Generator[tuple[Any, Tensor]]:
        sampler: Any = reader.sampler
        sampler.keys = self._keys()
        return (self._finish(batch) for batch in reader)

    def _keys(self) -> list[Any]:
        """Keys of the epoch's batches from `start` on, as `_Fetch` takes them."""
        order = np.arange(len(self.dataset))
        if self.shuffle:
            order = np.random.default_rng([self.seed, self.epoch]).permutation(len(order))
        repeat = np.arange(len(order)) % self.repeats
        order = np.repeat(order, self.repeats)[: len(order)]
        rows = [slice(step * self.batch_size, (step + 1) * self.batch_size) for step in range(len(self))]
        return [(self.epoch, step, order[rows[step]], repeat[rows[step]]) for step in range(self.start, len(self))]

    def _new_reader(self, persistent: bool) -> DataLoader:
        # Without its own generator, a DataLoader draws from the global one, and a resumed run would differ.
        return DataLoader(
            self._fetch,
            batch_size=None,
            sampler=_Keys(),
            num_workers=self.workers,
            # Forked processes share images in memory, and run no line of a script again. Python 3.14 would not fork by itself.
            multiprocessing_context="fork" if self.workers and sys.platform == "linux" else None,
            persistent_workers=persistent,
            generator=torch.Generator(),
            pin_memory=self.device.type == "cuda" and self.workers > 0,
        )


class _Keys(Sampler):
    """Keys of the batches of the iteration that begins next."""

    keys: Sequence[Any] = ()

    def __iter__(self) -> Iterator[Any]:
        return iter(self.keys)

    def __len__(self) -> int:
        return len(self.keys)


class _Fetch(Dataset):
    """Maps (epoch, step, indices, repeats) to a batch of images and labels.

    repeats: how often each index came before, in a row. part: the images of each batch that this process gets.
    """

    def __init__(self, dataset: Arrays | Stored, transform: Transform, seed: int, part: slice = slice(None)) -> None:
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
        with kept_generators():
            return _collated([self._sample(epoch, *pair) for pair in drawn])

    def _sample(self, epoch: int, index: int, repeat: int) -> tuple[Any, int]:
        image, label = self.dataset[index]
        seed_generators(self.seed, epoch, index, repeat)
        return self.transform(image), label


def _collated(samples: Any) -> Any:
    """Collate as torch does, but images `[3, H, W]` in memory `[H, W, 3]` to a batch in memory `[B, H, W, 3]`."""
    if isinstance(samples[0], Tensor) and samples[0].ndim == 3:
        return default_collate([image.permute(1, 2, 0) for image in samples]).permute(0, 3, 1, 2)
    if isinstance(samples[0], Unfinished):
        return Unfinished(*map(_collated, zip(*samples)))
    if isinstance(samples[0], (list, tuple)):
        return [_collated(part) for part in zip(*samples)]
    return default_collate(samples)


def _finish(
    batch: tuple[Any, Tensor] | InputError,
    changes: Changes | None,
    normalise: Callable[[Tensor], Tensor],
    device: torch.device,
) -> tuple[Any, Tensor]:
    """Move a batch to the device as bytes, finish and normalise it there; raise the error that its worker returned."""
    if isinstance(batch, InputError):
        raise batch

    def finish(view: Any) -> Tensor:
        if not isinstance(view, Unfinished):
            return normalise(view.to(device, non_blocking=True))
        assert changes is not None
        return normalise(changes.of_batch(view.images.to(device, non_blocking=True), view.numbers))

    images, labels = batch
    # A batch of views is a list, `Unfinished` a tuple.
    finished = [finish(view) for view in images] if isinstance(images, list) else finish(images)
    return finished, labels.to(device, non_blocking=True)
