"""Cache of a teacher's features on disk: computed once per image, then read through a memory map."""

from __future__ import annotations

import fcntl
import hashlib
import math
import os
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pynas.errors import InputError
from pynas.files import header, read_json, write_json
from pynas.teachers import Teacher
from pynas.tensor_files import digest

_KIND = "pynas.features"
_KEY_BYTES = 16
_FEWEST_ROWS = 256

Layout = list[tuple[list[int], str]]


class FeatureCache:
    """`cache(images)` returns `teacher.features_and_logits(images)`, and runs the teacher for new images only.

    The key of an image is the digest of its pixels, so its order and batch do not matter, and other data or another split
    share its features. The subfolder is named by the digest of the teacher's weights and taps. A row of `features.bin`
    holds the features at all taps and the logits of one image. Its key is written to `index.bin` after the row is on disk:
    a run that is killed at any moment leaves whole rows. A second process at the same time reads and does not write.

    limit: maximal bytes of the features. Augmented views do not come again; they would fill the cache.

    Raises:
        InputError: a teacher with batch statistics (its features depend on the whole batch), a damaged or full cache.
    """

    def __init__(self, folder: str | Path, teacher: Teacher, limit: int) -> None:
        if teacher.norm != "running":
            raise InputError(f"[cache] expected a teacher with the norm 'running', got {teacher.norm!r}; its features "
                             "of an image depend on the other images of the batch")  # fmt: skip
        self.teacher, self.limit = teacher, limit
        described = f"{digest(teacher.module.state_dict())} {teacher.taps} {teacher.module}"
        self.folder = Path(folder) / hashlib.blake2b(described.encode(), digest_size=8).hexdigest()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._index = (self.folder / "index.bin").open("a+b")  # holds the lock while it is open
        self.close = weakref.finalize(self, self._index.close)
        try:
            fcntl.flock(self._index, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.writes = True
        except OSError:
            self.writes = False
        self._rows: dict[bytes, int] = {}
        self._layout: Layout | None = None
        self._map: np.ndarray = np.empty((0, 0), np.uint8)
        if (self.folder / "features.json").exists():
            self._read()

    def __deepcopy__(self, memo: dict[int, Any]) -> FeatureCache:
        return self  # copies of a method share the cache

    def __len__(self) -> int:
        """Number of cached images."""
        return len(self._rows)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> tuple[list[Tensor], Tensor | None]:
        """images: [B, 3, H, W] -> features at the taps, and logits (None without)."""
        keys = [_key(image) for image in images.detach().cpu()]
        missing = list({key: i for i, key in enumerate(keys) if key not in self._rows}.values())
        if missing and not self.writes:
            return self.teacher.features_and_logits(images)
        if missing:
            features, logits = self.teacher.features_and_logits(images[missing])
            self._append([keys[i] for i in missing], [*features, *([] if logits is None else [logits])])
        parts = self._take([self._rows[key] for key in keys], images.device)
        taps = len(self.teacher.taps)
        return parts[:taps], parts[taps] if len(parts) > taps else None

    def _take(self, rows: list[int], device: torch.device) -> list[Tensor]:
        taken, parts, start = torch.from_numpy(self._map[rows]), [], 0
        for shape, kind in self._layout or []:
            dtype: torch.dtype = getattr(torch, kind)
            width = math.prod(shape) * dtype.itemsize
            part = taken[:, start : start + width].contiguous().view(dtype).reshape(-1, *shape).to(device)
            parts.append(part.contiguous(memory_format=torch.channels_last) if part.ndim == 4 else part)
            start += width
        return parts

    def _append(self, keys: list[bytes], parts: list[Tensor]) -> None:
        rows = torch.cat([_bytes(part) for part in parts], 1).numpy()
        layout = [(list(part.shape[1:]), str(part.dtype).removeprefix("torch.")) for part in parts]
        if self._layout is None:
            write_json(self.folder / "features.json", header(_KIND) | {"layout": layout, "row_bytes": rows.shape[1]})
            self._layout = layout
        elif layout != self._layout:
            raise InputError(f"[cache] expected features of the shapes {self._layout}, got {layout}; images of another "
                             "size need a cache folder of their own")  # fmt: skip
        first, last = len(self), len(self) + len(keys)
        if last * rows.shape[1] > self.limit:
            raise InputError(
                f"[cache] expected features of at most {self.limit:,} bytes, got {last:,} images of {rows.shape[1]:,} "
                f"bytes each in {self.folder}; raise cache_bytes, or cache only images that come again unchanged"
            )
        self._make_room(last, rows.shape[1])
        self._map[first:last] = rows
        self._map.flush()  # type: ignore[attr-defined]
        self._index.write(b"".join(keys))
        self._index.flush()
        self._rows.update(zip(keys, range(first, last)))

    def _make_room(self, rows: int, row_bytes: int) -> None:
        if rows <= len(self._map):
            return
        rows = min(max(_FEWEST_ROWS, 1 << (rows - 1).bit_length()), self.limit // row_bytes)
        with (self.folder / "features.bin").open("ab") as file:
            os.ftruncate(file.fileno(), max(rows * row_bytes, file.tell()))
        self._open_map(row_bytes)

    def _open_map(self, row_bytes: int) -> None:
        path = self.folder / "features.bin"
        rows = path.stat().st_size // row_bytes
        self._map = np.memmap(path, np.uint8, "r+" if self.writes else "r", shape=(rows, row_bytes))

    def _read(self) -> None:
        content = read_json(self.folder / "features.json", _KIND)
        self._index.seek(0)
        keys = self._index.read()
        whole = len(keys) - len(keys) % _KEY_BYTES
        if whole < len(keys) and self.writes:  # a kill cut a key
            os.ftruncate(self._index.fileno(), whole)
        self._rows = {keys[i : i + _KEY_BYTES]: i // _KEY_BYTES for i in range(0, whole, _KEY_BYTES)}
        self._layout = [(list(shape), kind) for shape, kind in content["layout"]]
        path = self.folder / "features.bin"
        size = path.stat().st_size if path.exists() else 0
        if size < len(self) * content["row_bytes"]:
            raise InputError(f"[cache] expected the features of {len(self):,} images, got {size:,} bytes in {path}; "
                             "remove the folder")  # fmt: skip
        if self._rows:
            self._open_map(content["row_bytes"])


def _key(image: Tensor) -> bytes:
    pixels = image.contiguous()
    state = hashlib.blake2b(f"{pixels.dtype} {list(pixels.shape)}\n".encode(), digest_size=_KEY_BYTES)
    state.update(pixels.reshape(-1).view(torch.uint8).numpy().data)
    return state.digest()


def _bytes(part: Tensor) -> Tensor:
    """Bytes of each row of a tensor: [B, ...] -> uint8 [B, n]."""
    return part.detach().cpu().contiguous().reshape(len(part), -1).view(torch.uint8)
