"""Shards of images in the layout of webdataset: tar files of samples KEY.jpg and KEY.cls, or KEY.json with "label".

Every shard is indexed once by the standard library's tarfile, which reads the headers and the classes and skips the images:
webdataset reads in the order of the files only (its indexed reader, wids, is no longer part of it), and a loader that resumes
exactly reads in any order.
"""

from __future__ import annotations

import glob
import itertools
import json
import os
import re
import tarfile
from array import array
from collections.abc import Callable, Iterator, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from pynas.data.datasets import Stored
from pynas.errors import InputError

_IMAGES = ("jpg", "jpeg", "png", "webp", "ppm")
# What stands for "train" in the name of the test shards; the first that there are files of.
_TEST = ("validation", "val", "test")
# Member of a shard: the sample's key, the ending, and where it is.
_Member = tuple[str, str, tarfile.TarInfo]


class Shards(Stored):
    """Samples of tar files; an image is read from its place, by a file that is opened for it, so that processes share nothing.

    paths: of the shards. shards, starts, sizes: int64 `[N]`, each image's shard, its first byte there and its bytes.
    keys: bytes `[N]`, of the samples.
    """

    def __init__(
        self,
        labels: np.ndarray,
        paths: Sequence[str],
        shards: np.ndarray,
        starts: np.ndarray,
        sizes: np.ndarray,
        keys: np.ndarray,
    ) -> None:
        super().__init__(labels)
        self.paths, self._shards, self._starts, self._sizes, self._keys = paths, shards, starts, sizes, keys

    def encoded(self, index: int) -> tuple[bytes, str]:
        """Return the bytes of an image file, and the sample's name."""
        path, size = self.paths[self._shards[index]], int(self._sizes[index])
        name = f"the sample {os.fsdecode(self._keys[index])} in {path}"
        try:
            with open(path, "rb", buffering=0) as file:
                file.seek(int(self._starts[index]))
                data = file.read(size)
        except OSError as error:
            raise InputError(f"[data] expected {name}, got {error}; restore the shard") from None
        if len(data) < size:
            raise InputError(f"[data] expected {size} bytes of {name}, got {len(data)}; restore the shard")
        return data, name

    def listing(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the samples' keys, and the sizes of the images."""
        return self._keys, self._sizes

    def select(self, rows: np.ndarray) -> Shards:
        """Return the samples at several indices, as a dataset."""
        columns = (self._shards, self._starts, self._sizes, self._keys)
        return Shards(self.labels[rows], self.paths, *(column[rows] for column in columns))


def read_shards(pattern: str) -> tuple[Shards, Shards]:
    """Return the training and the test samples of shards.

    pattern: names the training shards, as "shards/train-{000..127}.tar". The test shards are all files that match it with
        "train", where it comes last, replaced by "validation", "val" or "test" (the first that there are files of), and every
        brace by anything.

    Raises:
        InputError: webdataset is missing, a pattern without "train", a shard that is missing, cut off or damaged, or a sample
            without an image or a class.
    """
    try:
        from braceexpand import braceexpand
        from webdataset.tariterators import base_plus_ext
    except ImportError:
        raise InputError('[data] expected webdataset for shards, got none; pip install ".[webdataset]"') from None
    try:
        train = list(braceexpand(pattern))
    except ValueError as error:
        raise InputError(f"[data] expected a pattern as train-{{000..127}}.tar, got {pattern}: {error}") from None
    test = _test_shards(pattern)
    return _indexed(train, base_plus_ext), _indexed(test, base_plus_ext)


def _test_shards(pattern: str) -> list[str]:
    before, train, after = pattern.rpartition("train")
    if not train:
        raise InputError(f'[data] expected "train" in the name of training shards, got {pattern}; rename them')
    tried = [before + word + after for word in _TEST]
    for other in tried:
        found = glob.glob("*".join(map(glob.escape, re.split(r"\{.*?\}", other))))
        if found:
            return sorted(found)
    raise InputError(f"[data] expected test shards beside {pattern}, got none as {', '.join(tried)}")


def _indexed(paths: list[str], split_name: Callable[[str], tuple[str | None, str | None]]) -> Shards:
    missing = [path for path in paths if not Path(path).is_file()]
    if missing:
        raise InputError(f"[data] expected {len(paths)} shards, got no {missing[0]}"
                         f"{f', nor {len(missing) - 1} others' if missing[1:] else ''}; restore it")  # fmt: skip
    numbers, keys = [array("q") for _ in range(4)], []
    for shard, path in enumerate(paths):
        own = []
        for key, *place in _samples(path, split_name):
            own.append(os.fsencode(key))
            for column, value in zip(numbers, (shard, *place)):
                column.append(value)
        keys.append(np.array(own, np.bytes_))
    shards, starts, sizes, labels = (np.array(column, np.int64) for column in numbers)
    return Shards(labels, paths, shards, starts, sizes, np.concatenate(keys))


def _samples(path: str, split_name: Any) -> Iterator[tuple[str, int, int, int]]:
    """Yield the key, the first byte of the image, its size and the class of each sample of a shard."""
    key = None
    try:
        with tarfile.open(path, "r:") as tar:
            for key, members in itertools.groupby(_members(tar, split_name), itemgetter(0)):
                yield key, *_sample(tar, f"the sample {key} in {path}", list(members))
    except (tarfile.TarError, OSError, EOFError) as error:
        place = "at its start" if key is None else f"at or after the sample {key}"
        raise InputError(f"[data] expected a whole tar file without compression, got {path}, damaged {place}: {error}; "
                         "restore it") from None  # fmt: skip
    if key is None:
        raise InputError(f"[data] expected samples in {path}, got none; restore it")


def _members(tar: Any, split_name: Any) -> Iterator[_Member]:
    """Yield the files of an archive that belong to samples, and check that it ends as archives do."""
    while (member := tar.next()) is not None:
        tar.members = []  # tarfile would keep each one
        key, ending = split_name(member.name)
        if member.isfile() and key is not None:
            yield key, ending.lower(), member
    tar.fileobj.seek(tar.offset)
    # tarfile takes a damaged header, or none, for the end.
    if tar.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError(f"no end of the archive at byte {tar.offset}")


def _sample(tar: tarfile.TarFile, name: str, members: list[_Member]) -> tuple[int, int, int]:
    """Return the first byte of the image, its size, and the class."""
    files = {ending: member for _, ending, member in members}
    image = next((files[ending] for ending in _IMAGES if ending in files), None)
    found = ", ".join(files)
    if image is None:
        raise InputError(f"[data] expected an image ({', '.join(_IMAGES)}) in {name}, got {found}; mend the shard")
    ending = next((ending for ending in ("cls", "json") if ending in files), None)
    if ending is None:
        raise InputError(f'[data] expected a class in {name}, .cls or .json with "label", got {found}; mend the shard')
    content: Any = tar.extractfile(files[ending])
    text = content.read()
    try:
        label = int(text) if ending == "cls" else json.loads(text)["label"]
        if type(label) is not int or not 0 <= label < 2**31:
            raise ValueError
    except (ValueError, TypeError, KeyError):
        raise InputError(f"[data] expected the number of a class, from 0 on, in .{ending} of {name}, got {text[:40]!r}; "
                         "mend the shard") from None  # fmt: skip
    return image.offset_data, image.size, label
