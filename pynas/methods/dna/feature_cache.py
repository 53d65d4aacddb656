"""Cache of a teacher's features in an lmdb file: computed once per image, then read through its memory map."""

from __future__ import annotations

import hashlib
import json
import math
import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import torch
from torch import Tensor

from pynas.errors import InputError
from pynas.teachers import Teacher
from pynas.tensor_files import digest

try:
    import lmdb
except ImportError:  # the extra "cache"
    lmdb = None  # type: ignore[assignment]

_LAYOUT = b"layout"  # key of the shape and the type of each part of a row, in JSON
_open: WeakValueDictionary[tuple[int, ...], lmdb.Environment] = WeakValueDictionary()  # by the inode of the file


class FeatureCache:
    """`cache(images)` returns `teacher.features_and_logits(images)`, and runs the teacher for new images only.

    The key of an image is the digest of its pixels, so its order and batch do not matter, and other data or another split
    share its features. The subfolder is named by the digest of the teacher's weights and taps. A row holds the features at
    all taps and the logits of one image. One transaction writes the new rows of a batch: a run that is killed at any moment
    leaves whole rows. Other caches of the folder, in this process or another, may read and write at the same time. The folder
    is on a local disk: lmdb has no locks between machines.

    limit: maximal bytes of the file, rounded up to pages; caches of one folder in one process share the newest one's.
        Augmented views do not come again; they would fill the cache.

    Raises:
        InputError: a teacher with batch statistics (its features depend on the whole batch), a damaged or full cache, images
            of another size, no package lmdb.
    """

    def __init__(self, folder: str | Path, teacher: Teacher, limit: int) -> None:
        if lmdb is None:
            raise InputError('[cache] expected the package lmdb, got none; run pip install ".[cache]"')
        if teacher.norm != "running":
            raise InputError(f"[cache] expected a teacher with the norm 'running', got {teacher.norm!r}; its features "
                             "of an image depend on the other images of the batch")  # fmt: skip
        self.teacher, self.limit = teacher, -(-limit // mmap.PAGESIZE) * mmap.PAGESIZE
        described = f"{digest(teacher.module.state_dict())} {teacher.taps} {teacher.module}"
        self.folder = Path(folder) / hashlib.blake2b(described.encode(), digest_size=8).hexdigest()
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._clear_errors():
            self._file = _share(self.folder / "data.mdb", self.limit)

    def __deepcopy__(self, memo: dict[int, Any]) -> FeatureCache:
        return self  # copies of a method share the cache

    def __len__(self) -> int:
        """Number of cached images."""
        return max(self._file.stat()["entries"] - 1, 0)  # without the layout

    @torch.no_grad()
    def __call__(self, images: Tensor) -> tuple[list[Tensor], Tensor | None]:
        """images: [B, 3, H, W] -> features at the taps, and logits (None without)."""
        keys = [digest({"image": image}).encode() for image in images.cpu()]
        with self._clear_errors(), self._begin() as transaction:
            missing = list({key: i for i, key in enumerate(keys) if transaction.get(key) is None}.values())
        if missing:
            features, logits = self.teacher.features_and_logits(images[missing])
            self._write([keys[i] for i in missing], [*features, *([] if logits is None else [logits])])
        parts = [part.to(images.device) for part in self._read(keys)]
        parts = [part.contiguous(memory_format=torch.channels_last) if part.ndim == 4 else part for part in parts]
        taps = len(self.teacher.taps)
        return parts[:taps], parts[taps] if len(parts) > taps else None

    def _read(self, keys: list[bytes]) -> list[Tensor]:
        with self._clear_errors(), self._begin() as transaction:
            layout = [(shape, getattr(torch, kind)) for shape, kind in json.loads(bytes(transaction.get(_LAYOUT, b"")))]
            widths = [math.prod(shape) * dtype.itemsize for shape, dtype in layout]
            rows = np.empty((len(keys), sum(widths)), np.uint8)
            for row, key in zip(rows, keys):
                row[:] = np.frombuffer(transaction.get(key, b""), np.uint8)
        parts = [part.clone(memory_format=torch.contiguous_format) for part in torch.from_numpy(rows).split(widths, 1)]
        return [part.view(dtype).reshape(-1, *shape) for part, (shape, dtype) in zip(parts, layout)]

    def _write(self, keys: list[bytes], parts: list[Tensor]) -> None:
        rows = torch.cat([part.cpu().contiguous().flatten(1).view(torch.uint8) for part in parts], 1).numpy()
        layout = json.dumps([(part.shape[1:], str(part.dtype).removeprefix("torch.")) for part in parts]).encode()
        with self._clear_errors(), self._begin(write=True) as transaction:
            if (known := bytes(transaction.get(_LAYOUT, layout))) != layout:
                raise InputError(f"[cache] expected features of the shapes {known.decode()}, got {layout.decode()}; "
                                 "images of another size need a cache folder of their own")  # fmt: skip
            transaction.put(_LAYOUT, layout)
            for key, row in zip(keys, rows):
                transaction.put(key, row.data, overwrite=False)  # another process may have been first

    def _begin(self, write: bool = False) -> lmdb.Transaction:
        try:
            return self._file.begin(write=write, buffers=True)
        except lmdb.MapResizedError:  # another process has a larger limit
            self._file.set_mapsize(self.limit)  # or the bytes in use, if more
            return self._begin(write)

    @contextmanager
    def _clear_errors(self) -> Iterator[None]:
        try:
            yield
        except lmdb.MapFullError:
            raise InputError(f"[cache] expected features of at most {self.limit:,} bytes, got more than {self.folder} holds "
                             f"with {len(self):,} images; raise cache_bytes, or cache only images that come again "
                             "unchanged") from None  # fmt: skip
        except InputError:
            raise
        except (lmdb.Error, OverflowError, ValueError) as error:
            raise InputError(f"[cache] expected a whole file of lmdb with at most {self.limit:,} bytes, got: {error}; "
                             f"remove the folder {self.folder}, or name another") from None  # fmt: skip


def _share(path: Path, limit: int) -> lmdb.Environment:
    """Open a file; share it where this process has opened it, since lmdb opens no file twice."""
    if path.exists() and (file := _open.get(path.stat()[1:3])):
        file.set_mapsize(limit)
        return file
    file = lmdb.open(str(path.parent), limit, metasync=False)  # a power cut may undo the last batch
    needed, found = (file.info()["last_pgno"] + 1) * file.stat()["psize"], path.stat().st_size
    if found < needed:
        file.close()
        raise InputError(f"[cache] expected {needed:,} bytes of features, got {found:,} in {path}; remove the folder")
    file.reader_check()  # forget killed readers
    return _open.setdefault(path.stat()[1:3], file)
