"""Scores of listed paths, for cells of too many paths for a dense table."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from pynas.errors import InputError


@dataclass(frozen=True)
class Listed:
    """Paths in lexicographic order, each once, with their scores; no path without a score.

    counts: candidates per layer. paths: int64 `[n, L]`. scores: float64 `[n]`.
    """

    counts: tuple[int, ...]
    paths: np.ndarray
    scores: np.ndarray

    @classmethod
    def of(cls, counts: tuple[int, ...], paths: np.ndarray, scores: np.ndarray) -> Listed:
        """Sort paths; of a path that comes twice the last one counts, and a score of NaN is none."""
        _, last = np.unique(_keys(paths)[::-1], return_index=True)
        rows = len(paths) - 1 - last
        rows = rows[~np.isnan(scores[rows])]
        return cls(counts, paths[rows], scores[rows])

    @classmethod
    def dense(cls, scores: np.ndarray) -> Listed:
        """List the paths of a dense table that have a score."""
        paths = np.argwhere(~np.isnan(scores))
        return cls(scores.shape, paths, scores[tuple(paths.T)])

    def at(self, paths: np.ndarray) -> np.ndarray:
        """Scores of paths int64 `[N, L]`, float64 `[N]`; NaN for those without one."""
        wanted, found = _keys(paths), np.full(len(paths), np.nan)
        if len(self.paths):
            rows = np.minimum(np.searchsorted(self._sorted, wanted), len(self.paths) - 1)
            known = self._sorted[rows] == wanted
            found[known] = self.scores[rows[known]]
        return found

    @cached_property
    def _sorted(self) -> np.ndarray:
        return _keys(self.paths)

    def table(self) -> np.ndarray:
        """Return the dense table, NaN for the paths without a score."""
        scores = np.full(self.counts, np.nan)
        scores[tuple(self.paths.T)] = self.scores
        return scores


def check_paths(where: str, counts: Sequence[int], paths: Iterable[Sequence[int]]) -> np.ndarray:
    """Return paths as int64 `[N, L]`, in the order given.

    Raises:
        InputError: a path that is not one whole number per layer, each below its count.
    """
    if isinstance(paths, np.ndarray) and paths.ndim == 2 and np.issubdtype(paths.dtype, np.integer):
        rows = paths.astype(np.int64)
    else:
        rows = np.array([_row(where, counts, path) for path in paths], np.int64).reshape(-1, len(counts))
    if rows.shape[1] != len(counts):
        raise _refuse(where, counts, rows[0].tolist() if len(rows) else f"{rows.shape[1]} layers")
    wrong = ((rows < 0) | (rows >= np.array(counts))).any(1)
    if wrong.any():
        raise _refuse(where, counts, tuple(rows[wrong.argmax()].tolist()))
    return rows


def _row(where: str, counts: Sequence[int], path: Sequence[int]) -> list[int]:
    try:
        row = [operator.index(choice) for choice in path]
        np.array(row, np.int64)
    except (TypeError, OverflowError):
        raise _refuse(where, counts, path) from None
    if len(row) != len(counts):
        raise _refuse(where, counts, tuple(row))
    return row


def _refuse(where: str, counts: Sequence[int], path: object) -> InputError:
    return InputError(f"[{where}] expected paths of one candidate per layer out of {tuple(counts)}, got {path}")


def _keys(paths: np.ndarray) -> np.ndarray:
    """Keys of paths, `[N]`, in their lexicographic order: bytes of big-endian numbers."""
    return np.ascontiguousarray(paths, ">u4").view(np.dtype((np.void, 4 * paths.shape[1]))).reshape(-1)
