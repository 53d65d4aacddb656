"""Score table of a cell: an array of path scores with one axis per layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pynas.errors import InputError
from pynas.files import read_arrays, write_arrays

_KIND = "pynas.scores"


@dataclass
class ScoreTable:
    """Scores of all paths of one cell; lower is better.

    scores: float64 `[c_1, ..., c_L]`, one axis per layer, NaN where a path is not allowed or was not rated.
    metadata: how the table was computed (loss, norm mode, number of samples, ...), kept in the file.
    """

    scores: np.ndarray
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.scores = np.asarray(self.scores, dtype=np.float64)
        if self.scores.ndim == 0 or self.scores.size == 0:
            raise InputError(f"[score table] expected an axis per layer, got the shape {self.scores.shape}")

    @property
    def shape(self) -> tuple[int, ...]:
        """Candidates per layer."""
        return self.scores.shape

    def __getitem__(self, path: tuple[int, ...]) -> float:
        return float(self.scores[tuple(path)])

    def __len__(self) -> int:
        return int((~np.isnan(self.scores)).sum())

    def rated(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the rated paths in lexicographic order and their scores: int64 `[n, L]`, float64 `[n]`."""
        paths = np.argwhere(~np.isnan(self.scores))
        return paths, self.scores[tuple(paths.T)]

    def best(self, k: int = 1) -> list[tuple[tuple[int, ...], float]]:
        """Return the k best (path, score), best first; equal scores in the order of the paths."""
        paths, scores = self.rated()
        order = np.argsort(scores, kind="stable")[:k]
        return [(tuple(int(c) for c in paths[i]), float(scores[i])) for i in order]

    def save(self, path: str | Path) -> None:
        """Write a versioned .npz, atomically."""
        write_arrays(path, _KIND, {"scores": self.scores}, **self.metadata)

    @classmethod
    def load(cls, path: str | Path) -> ScoreTable:
        """Read a file that `save` wrote.

        Raises:
            InputError: missing, damaged, or of another version.
        """
        arrays, metadata = read_arrays(path, _KIND)
        return cls(arrays["scores"], metadata)
