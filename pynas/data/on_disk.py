"""Data sets of images on disk: their parts for a search, and the content that their fingerprint is made of."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from pynas.data.datasets import Folder, Stored
from pynas.data.images import ImageData, Split, count_classes
from pynas.errors import InputError

_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

# Bytes of a data set on disk up to which its fingerprint covers every byte; it is read within seconds.
MOST_HASHED = 2**28

Contents = Callable[[Any, Any], Iterator[bytes]]


def contents_of(train: Stored, test: Stored) -> Iterator[bytes]:
    """Yield the names, sizes and classes of the images, and their bytes where these are few enough."""
    total = 0
    for part in (train, test):
        names, sizes = part.listing()
        yield f"{names.dtype.str}{len(names)}".encode()
        yield from (names.tobytes(), sizes.astype("<i8").tobytes(), part.labels.astype("<i8").tobytes())
        total += int(sizes.sum())
    if total <= MOST_HASHED:
        for part in (train, test):
            yield from (part.encoded(index)[0] for index in range(len(part)))


def split_stored(
    name: str, train: Stored, test: Stored, split: Split, image_size: int, flip: bool, contents: Contents = contents_of
) -> ImageData:
    """Return a data set of images on disk, split for a search, normalised as ImageNet; image_size: side in pixels.

    Raises:
        InputError: classes or a split that do not fit, see `count_classes` and `Split`.
    """
    classes = count_classes(train.labels, test.labels, name)
    kept = split.limited(train.labels)
    if kept is not None:
        train = train.select(kept)
    rows, rated = split.parts(train.labels)
    hashed = itertools.chain(contents(train, test), (repr(image_size).encode(), rows.tobytes(), rated.tobytes()))
    return ImageData(
        name=name,
        train=train.select(rows),
        val=train.select(rated),
        test=test,
        num_classes=classes,
        image_shape=(3, image_size, image_size),
        mean=_IMAGENET_MEAN,
        std=_IMAGENET_STD,
        flip=flip,
        fingerprint=fingerprint(hashed),
    )


def folder_contents(root: Path) -> Contents:
    """Return the contents of files below a folder, as `contents_of`, with the names below it."""

    def contents(train: Folder, test: Folder) -> Iterator[bytes]:
        samples = train.samples + test.samples
        try:
            sizes = [Path(name).stat().st_size for name, _ in samples]
            listing = [
                (Path(name).relative_to(root).as_posix(), size, label) for (name, label), size in zip(samples, sizes)
            ]
            yield repr(listing).encode()
            if sum(sizes) <= MOST_HASHED:
                for name, _ in samples:
                    yield Path(name).read_bytes()
        except OSError as error:
            raise InputError(f"[data] expected images that can be read, got {error}") from None

    return contents


def fingerprint(parts: Iterable[bytes]) -> str:
    """Return 16 hexadecimal digits, a hash of the bytes."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()[:16]
