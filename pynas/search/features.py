"""Features of networks that add up over blocks: the width of every layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

from pynas.costs.layers import LayerCosts
from pynas.errors import InputError
from pynas.rating import Scores, ScoreTable
from pynas.search.prior import cost_values
from pynas.spaces import Architecture

BY_LAYER = "log_width"


@dataclass(frozen=True)
class Features:
    """Logarithms of the widths of the layers of a space's rated networks; a layer belongs to one block.

    names: block after block, `log_width 1.2` for layer 2 of block 1. scores: of the rated paths. values: by `[block][cell]`, those
    of the block's layers for the rated paths `[n, F_b]`, each with the mean 0 and the standard deviation 1 over the block's
    rated paths; a layer whose width does not vary is left out.
    """

    names: Sequence[str]
    scores: Scores
    values: Sequence[Sequence[np.ndarray]]

    @classmethod
    def of_scores(cls, scores: Scores, costs: Any) -> Features:
        """Build the features of the paths that have scores; costs without `log_width` give none.

        costs: `Costs`, or costs of a space of one block.
        """
        names: list[str] = []
        values = []
        for b, cells in enumerate(scores.tables):
            paths = [table.rated()[0] for table in cells]
            columns: list[tuple[str, list[np.ndarray]]] = []
            if BY_LAYER in costs.additive:
                layers = [_by_layer(costs, b, c, p, cells[c].shape) for c, p in enumerate(paths)]
                most = max(part.shape[1] for part in layers)
                padded = [np.pad(part, ((0, 0), (0, most - part.shape[1]))) for part in layers]
                columns = [(f"{BY_LAYER} {b + 1}.{l + 1}", [part[:, l] for part in padded]) for l in range(most)]
            kept, block = _standard(columns, sum(map(len, paths)))
            names += kept
            values.append(np.split(block, np.cumsum([len(p) for p in paths])[:-1]))
        return cls(names, scores, values)

    def of(self, architectures: Sequence[Architecture]) -> np.ndarray:
        """Return the features of architectures, float64 `[N, F]`.

        Raises:
            InputError: an architecture with a path that is not rated.
        """
        blocks = []
        for b, cells in enumerate(self.values):
            rows = [[i for i, a in enumerate(architectures) if a[b].cell == c] for c in range(len(cells))]
            block = np.full((len(architectures), cells[0].shape[1]), np.nan)
            for c, (own, values) in enumerate(zip(rows, cells)):
                if own:
                    block[own] = values[self._positions(b, c, [architectures[row][b].path for row in own])]
            blocks.append(block)
        return np.concatenate(blocks, axis=1)

    def _positions(self, b: int, c: int, paths: Sequence[tuple[int, ...]]) -> np.ndarray:
        """Places of paths among the rated ones of a cell."""
        table = self.scores[b][c]
        known, wanted = (np.ravel_multi_index(tuple(np.asarray(p).T), table.shape) for p in (table.rated()[0], paths))
        found = np.searchsorted(known, wanted)
        missing = np.flatnonzero(known[np.minimum(found, len(known) - 1)] != wanted) if len(known) else np.arange(1)
        if len(missing):
            raise InputError(f"[calibrate] expected networks of rated paths, got the path {paths[missing[0]]} of cell {c} of "
                             f"block {b}, which has no score")  # fmt: skip
        return found

    def weighted(self, weights: np.ndarray) -> Scores:
        """Return the sum of the features times weights `[F]`, as tables of the rated paths."""
        tables, first = [], 0
        for cells, values in zip(self.scores.tables, self.values):
            own = weights[first : first + values[0].shape[1]]
            first += len(own)
            tables.append([ScoreTable.of_paths(t.shape, t.rated()[0], part @ own) for t, part in zip(cells, values)])
        return Scores(self.scores.space, tables)


def _standard(columns: Sequence[tuple[str, Sequence[np.ndarray]]], rows: int) -> tuple[list[str], np.ndarray]:
    """Names and standardised values `[rows, F]` of the columns that vary, cells one after the other."""
    joined = [(name, np.concatenate(cells)) for name, cells in columns]
    kept = [(name, values) for name, values in joined if np.ptp(values) > 1e-9 * np.abs(values).max(initial=0)]
    block = (
        np.stack([(values - values.mean()) / values.std() for _, values in kept], 1) if kept else np.empty((rows, 0))
    )
    return [name for name, _ in kept], block


def _by_layer(costs: Any, b: int, c: int, paths: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Share of every layer in the cost `log_width` of paths `[n, L]` -> `[n, L]`: the values of the best sum over layers."""
    if isinstance(costs, LayerCosts):
        layers = costs[BY_LAYER].layers[c]
        return np.stack([layers[l][paths[:, l]] for l in range(len(shape))], axis=1)
    if len(paths) == 0:
        return np.empty((0, len(shape)))
    values = cost_values(costs, BY_LAYER, b, c, paths, shape)
    starts = np.cumsum([0, *shape[:-1]])
    indices = (paths + starts).ravel()
    chosen = sparse.csr_matrix((np.ones(indices.size), indices, np.arange(0, indices.size + 1, len(shape))),
                               shape=(len(paths), sum(shape)))  # fmt: skip
    effects = sparse.linalg.lsqr(chosen, values, atol=1e-12, btol=1e-12)[0]
    return effects[paths + starts]
