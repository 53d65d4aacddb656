"""Partial result of a rating, kept in a file from which a killed rating resumes."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pynas.errors import InputError
from pynas.files import read_arrays, write_arrays

_KIND = "pynas.partial_scores"


class Partial:
    """Sums of losses `[P]` over the groups of batches and units (subtrees) that are done.

    path: the file, None to keep nothing. key: digest of everything that the sums depend on; a file of another key is refused.
    group, unit: the next unit of the next group. centre: sums of the outputs, for ratings by the distance to their mean.
    """

    def __init__(self, path: str | Path | None, key: str, paths: int, interval: float = 5.0) -> None:
        self._path, self._key, self._interval = Path(path) if path is not None else None, key, interval
        self.sums = np.zeros(paths)
        self.samples = self.group = self.unit = 0
        self.data = ""
        self.centre: list[Tensor] = []
        self._saved = time.monotonic()
        if self._path is not None and self._path.exists():
            self._read()

    @classmethod
    def of(cls, path: str | Path | None, rank: int, size: int, paths: int, *depends: Any) -> Partial:
        """Open this process's file, `path` or with several processes `path.0of2`, for sums that depend on `depends`."""
        if path is None:
            return cls(None, "", paths)
        return cls(f"{path}.{rank}of{size}" if size > 1 else path, digest(*depends, rank, size), paths)

    def _read(self) -> None:
        arrays, metadata = read_arrays(self._path, _KIND)  # type: ignore[arg-type]
        if metadata.get("key") != self._key:
            raise InputError(
                f"[rate] expected a partial rating of these weights, paths and settings, got another one in "
                f"{self._path}; remove it, or resume with what it was made from"
            )
        self.sums, self.data = arrays["sums"], metadata["data"]
        self.centre = [torch.from_numpy(arrays[f"centre_{k}"]) for k in range(len(arrays) - 1)]
        self.samples, self.group, self.unit = (int(metadata[name]) for name in ("samples", "group", "unit"))

    @property
    def keeps(self) -> bool:
        """Whether the result is kept in a file."""
        return self._path is not None

    def check_data(self, data: str) -> None:
        """Check the digest of the next group's batches against the one in the file.

        Raises:
            InputError: other batches.
        """
        if self.unit and self.data != data:
            raise InputError(f"[rate] expected the batches that {self._path} was made with, got others in the group "
                             f"{self.group}; resuming needs a loader that repeats itself")  # fmt: skip
        self.data = data

    def advance(self, group: int, unit: int, samples: int, now: bool = False) -> None:
        """Note that this unit of this group comes next, and save: every few seconds, or `now`."""
        self.group, self.unit, self.samples = group, unit, samples
        if self._path is not None and (now or time.monotonic() - self._saved >= self._interval):
            metadata = {"key": self._key, "data": self.data, "samples": samples, "group": group, "unit": unit}
            centre = {f"centre_{k}": total.cpu().numpy() for k, total in enumerate(self.centre if unit else ())}
            write_arrays(self._path, _KIND, {"sums": self.sums, **centre}, **metadata)
            self._saved = time.monotonic()

    def restart(self) -> None:
        """Forget all results, and keep none from now on."""
        self.remove()
        self._path, self.data, self.centre = None, "", []
        self.sums, self.samples, self.group, self.unit = np.zeros_like(self.sums), 0, 0, 0

    def remove(self) -> None:
        """Remove the file, after the rating is complete."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)


def digest(*parts: Any) -> str:
    """SHA-256 over tensors (type, shape, bytes), modules' states, and the text of all else, inside lists and dictionaries too."""
    sha = hashlib.sha256()
    for part in _flatten(parts):
        if isinstance(part, Tensor):
            sha.update(f"{part.dtype}{tuple(part.shape)}".encode())
            sha.update(part.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        else:
            sha.update(str(part).encode())
    return sha.hexdigest()


def _flatten(parts: Iterable[Any]) -> Iterable[Any]:
    for part in parts:
        if isinstance(part, nn.Module):
            yield str(part)
            yield from part.state_dict().values()
        elif isinstance(part, Mapping):
            yield from _flatten(part.items())
        elif isinstance(part, np.ndarray):
            yield torch.from_numpy(part)
        elif isinstance(part, Sequence) and not isinstance(part, str):
            yield from _flatten(part)
        else:
            yield part
