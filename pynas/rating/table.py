"""Score table of a cell: an array of path scores with one axis per layer, or a list of rated paths where that is smaller."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pynas.errors import InputError
from pynas.files import read_arrays, write_arrays
from pynas.rating.listed import Listed, check_paths

_KIND = "pynas.scores"
# Paths of a cell up to which its table is dense, however few are rated: 8 MiB.
_SMALL = 2**20
# Paths of a cell up to which a list of scores is made dense on request: 1 GiB.
_MOST = 2**27
# Axes of an array (numpy 1 has no more).
_AXES = 32


class ScoreTable:
    """Scores of the paths of one cell; lower is better.

    A cell has a dense table up to 2^20 paths, and beyond where that takes no more memory than a list of the rated paths. The
    methods do not differ.

    scores: float64 `[c_1, ..., c_L]`, one axis per layer, NaN where a path is not allowed or was not rated.
    metadata: how the table was computed (loss, norm mode, number of samples, ...), kept in the file.

    Raises:
        InputError: an array without axes or with an axis of no entries.
    """

    def __init__(self, scores: np.ndarray, metadata: Mapping[str, Any] | None = None) -> None:
        dense = np.asarray(scores, dtype=np.float64)
        if dense.ndim == 0 or dense.size == 0:
            raise InputError(f"[score table] expected an axis per layer, got the shape {dense.shape}")
        self._data: np.ndarray | Listed = dense
        self.metadata: Mapping[str, Any] = {} if metadata is None else metadata

    @classmethod
    def of_paths(
        cls,
        counts: Sequence[int],
        paths: Iterable[Sequence[int]],
        scores: Sequence[float] | np.ndarray,
        metadata: Mapping[str, Any] | None = None,
    ) -> ScoreTable:
        """Make the table of some paths of a cell; memory and time grow with their number, not with that of all paths.

        counts: candidates per layer. paths: `[n, L]`; of a path that comes twice the last one counts. scores: `[n]`.

        Raises:
            InputError: a path that the cell does not have, or another number of scores.
        """
        counts = tuple(int(count) for count in counts)
        if not counts or min(counts) < 1:
            raise InputError(f"[score table] expected at least one candidate per layer, got {counts}")
        rows, values = check_paths("score table", counts, paths), np.asarray(scores, dtype=np.float64)
        if values.shape != (len(rows),):
            raise InputError(f"[score table] expected a score for each of {len(rows)} paths, got {list(values.shape)}")
        listed = Listed.of(counts, rows, values)
        most = max(_SMALL, len(listed.paths) * (len(counts) + 1))
        if math.prod(counts) <= most and len(counts) <= _AXES:
            return cls(listed.table(), metadata)
        table = cls.__new__(cls)
        table._data, table.metadata = listed, {} if metadata is None else metadata
        return table

    @property
    def scores(self) -> np.ndarray:
        """Dense table `[c_1, ..., c_L]`, NaN where a path has no score; the table holds it from now on.

        Raises:
            InputError: a cell of more than 2^27 paths or 32 layers, of which a list is held; `rated()` and `at()` read it.
        """
        if isinstance(self._data, Listed):
            size = math.prod(self.shape)
            if size > _MOST or len(self.shape) > _AXES:
                raise InputError(f"[score table] expected at most {_MOST:,} paths (1 GiB) and {_AXES} layers for a dense "
                                 f"table, got {size:,} paths ({size >> 27:,} GiB) of {len(self.shape)} layers; read the "
                                 f"{len(self):,} rated ones by rated(), best() or table[path]")  # fmt: skip
            self._data = self._data.table()
        return self._data

    @property
    def shape(self) -> tuple[int, ...]:
        """Candidates per layer."""
        return self._data.counts if isinstance(self._data, Listed) else self._data.shape

    def __getitem__(self, path: Sequence[int]) -> float:
        return float(self.at([path])[0])

    def __len__(self) -> int:
        data = self._data
        return len(data.paths) if isinstance(data, Listed) else int((~np.isnan(data)).sum())

    def __repr__(self) -> str:
        best = "".join(f", best {score:.6g} at {path}" for path, score in self.best())
        return f"ScoreTable({len(self):,} of {math.prod(self.shape):,} paths of {len(self.shape)} layers rated{best})"

    def __or__(self, other: ScoreTable) -> ScoreTable:
        """Join with scores of other paths of the cell; a path that both have takes the score of `other`.

        Raises:
            InputError: a table of another cell, or scores that were computed in another way, which do not compare.
        """
        if self.shape != other.shape:
            raise InputError(f"[score table] expected a table of {self.shape} candidates to join, got {other.shape}")
        names = {*self.metadata, *other.metadata}
        differ = sorted(name for name in names if self.metadata.get(name) != other.metadata.get(name))
        if differ:
            raise InputError(f"[score table] expected scores that were computed alike to join, got {differ[0]} "
                             f"{self.metadata.get(differ[0])!r} and {other.metadata.get(differ[0])!r}; rate all paths by "
                             "one loss, on the same batches")  # fmt: skip
        paths, scores = zip(self.rated(), other.rated())
        return self.of_paths(self.shape, np.concatenate(paths), np.concatenate(scores), dict(self.metadata))

    def at(self, paths: Iterable[Sequence[int]]) -> np.ndarray:
        """Return the scores of many paths, `[N, L]` -> float64 `[N]`; NaN for one that was not rated.

        Raises:
            InputError: a path that the cell does not have.
        """
        rows = check_paths("score table", self.shape, paths)
        return self._data.at(rows) if isinstance(self._data, Listed) else self._data[tuple(rows.T)]

    def rated(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the rated paths in lexicographic order and their scores: int64 `[n, L]`, float64 `[n]`."""
        listed = self._data if isinstance(self._data, Listed) else Listed.dense(self._data)
        return listed.paths, listed.scores

    def best(self, k: int = 1) -> list[tuple[tuple[int, ...], float]]:
        """Return the k best (path, score), best first; equal scores in the order of the paths."""
        paths, scores = self.rated()
        order = np.argsort(scores, kind="stable")[:k]
        return [(tuple(int(c) for c in paths[i]), float(scores[i])) for i in order]

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the arrays that a file keeps: the dense table, or counts, paths and their scores."""
        if not isinstance(self._data, Listed):
            return {"scores": self._data}
        kind = np.min_scalar_type(max(self.shape))
        paths = self._data.paths.astype(kind)
        return {"counts": np.array(self.shape), "paths": paths, "values": self._data.scores}

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, Any]) -> ScoreTable:
        """Make the table of the arrays that `arrays` returned."""
        if "scores" in arrays:
            return cls(arrays["scores"], metadata)
        return cls.of_paths(arrays["counts"].tolist(), arrays["paths"], arrays["values"], metadata)

    def save(self, path: str | Path) -> None:
        """Write a versioned .npz, atomically."""
        write_arrays(path, _KIND, self.arrays(), **self.metadata)

    @classmethod
    def load(cls, path: str | Path) -> ScoreTable:
        """Read a file that `save` wrote.

        Raises:
            InputError: missing, damaged, or of another version.
        """
        return cls.of_arrays(*read_arrays(path, _KIND))
