"""A quantity of whole networks as a cost: what each candidate adds to it, fitted to the values of a few networks."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import kendalltau, norm, rankdata

from pynas.costs.layers import LayerCosts, LayerTable
from pynas.costs.table import Costs
from pynas.errors import InputError
from pynas.spaces import Architecture, Space
from pynas.supernets import kind_of

LEAST = 10
_FOLDS = 5
# Ridge penalties, of which generalised cross-validation takes one.
_PENALTIES = np.logspace(-2, 4, 25)


def fitted(space: Space, name: str, architectures: Sequence[Architecture], values: ArrayLike) -> Costs | LayerCosts:
    """Fit a quantity of whole networks by a sum over blocks and layers, which can then be searched exactly or be a prior.

    The ranks of the values, as normal scores, are fitted by a ridge regression on which cell each block has and which candidate
    each layer: what is not such a sum is lost. `metadata["fitted"][name]` says how much is kept: "tau", Kendall's tau between the
    values and predictions by fits to other networks (5-fold cross-validation), of how many "networks".

    architectures: at least 10 different ones. values: `[N]`, finite; more of the cost is more of the quantity. As costs are 0
    or more, the path of each block that has the least counts 0.
    Returns `Costs`, or `LayerCosts` for a kind of space whose cells have too many paths for tables.

    Raises:
        InputError: too few architectures, one outside the space, or values that are not finite, not as many, or all equal.
    """
    from sklearn.linear_model import RidgeCV
    from sklearn.model_selection import KFold, cross_val_predict

    target = np.asarray(values, np.float64)
    for architecture in architectures:
        space.check(architecture)
    if len(set(architectures)) < LEAST or target.shape != (len(architectures),) or not np.isfinite(target).all():
        raise InputError(f"[costs] expected at least {LEAST} different architectures with a finite {name} each, got "
                         f"{len(set(architectures))} architectures and {target.size} values")  # fmt: skip
    if np.ptp(target) == 0:
        raise InputError(f"[costs] expected {name} that differs between architectures, got {target[0]:g} for each")
    terms = _Terms(space)
    rows = np.stack([terms.of(architecture) for architecture in architectures])
    ranks = norm.ppf((rankdata(target) - 0.5) / len(target))
    model, folds = RidgeCV(_PENALTIES), KFold(_FOLDS, shuffle=True, random_state=0)
    tau = float(kendalltau(cross_val_predict(model, rows, ranks, cv=folds), target).statistic)
    model.fit(rows, ranks)
    kept = {"networks": len(target), "tau": 0.0 if np.isnan(tau) else tau}
    return terms.costs(name, model.coef_, {"space": space.name, "fitted": {name: kept}})


class _Terms:
    """Places of a space's cells and candidates among the terms of the sum.

    The cells of a block share the terms of their layers: they differ in their input or depth, by a term of their own.
    """

    def __init__(self, space: Space) -> None:
        self.space, self.count = space, 0
        self.cells: list[np.ndarray] = []
        self.layers: list[list[np.ndarray]] = []  # by block and layer, the terms of the candidates
        for cells in space.blocks:
            self.cells.append(self._next(len(cells)))
            deepest = max(len(cell.counts) for cell in cells)
            most = [max(cell.counts[l] for cell in cells if l < len(cell.counts)) for l in range(deepest)]
            self.layers.append([self._next(candidates) for candidates in most])

    def of(self, architecture: Architecture) -> np.ndarray:
        """Return the terms of an architecture, 0 or 1, `[F]`."""
        row = np.zeros(self.count)
        for b, choice in enumerate(architecture):
            row[self.cells[b][choice.cell]] = 1
            for terms, candidate in zip(self.layers[b], choice.path):
                row[terms[candidate]] = 1
        return row

    def costs(self, name: str, weights: np.ndarray, metadata: dict[str, Any]) -> Costs | LayerCosts:
        """Return the sum of the terms times weights `[F]` as a cost, up to a constant."""
        by_cell: list[list[tuple[float, list[np.ndarray]]]] = []
        for cells, own, layers in zip(self.space.blocks, self.cells, self.layers):
            effects = [[weights[terms[:n]] for terms, n in zip(layers, cell.counts)] for cell in cells]
            least = [float(weights[term] + sum(e.min() for e in effect)) for term, effect in zip(own, effects)]
            by_cell.append([
                (value - min(least), [e - e.min() for e in effect]) for value, effect in zip(least, effects)
            ])  # fmt: skip
        if kind_of(self.space).dense_costs:
            tables = [[start + reduce(np.add.outer, parts) for start, parts in block] for block in by_cell]
            return Costs({name: tables}, {name: 0.0}, metadata, space=self.space)
        (only,) = by_cell
        table = LayerTable([start for start, _ in only], [np.stack(parts) for _, parts in only])
        return LayerCosts({name: table}, metadata)

    def _next(self, count: int) -> np.ndarray:
        self.count += count
        return np.arange(self.count - count, self.count)
