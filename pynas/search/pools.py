"""Rated paths of all blocks as the flat arrays of a search problem, and what a search gives back for its rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from pynas.costs.range import cost_range
from pynas.costs.table import Costs
from pynas.errors import InputError
from pynas.rating.scores import Scores
from pynas.search.grid import Column, cost_column, losses_on_grid
from pynas.search.limits import check_limits
from pynas.search.problem import Limit, Problem
from pynas.search.rules import Allowed, restrict
from pynas.search.states import link, unlinked
from pynas.spaces import Architecture, Choice
from pynas.spaces.states import states_of

JOINS = ("sum", "product")


class WholeCosts(Protocol):
    """Costs of whole architectures, as `LayerCosts` or a class of your own gives them."""

    @property
    def names(self) -> Sequence[str]:
        """Names of the costs."""

    def of(self, architecture: Architecture) -> Mapping[str, float]:
        """Costs of an architecture, by name."""


@dataclass(frozen=True)
class Entry:
    """An architecture with its score (lower is better) and its whole costs, fixed part included."""

    architecture: Architecture
    score: float
    costs: Mapping[str, float]


class Pools:
    """Per block, the rated paths of all its cells in (cell, path) order, as flat arrays.

    name: the caller's, in front of error messages. allowed: which paths count, as of `best`.

    Raises:
        InputError: tables without their space, a block without a rated path, costs of other shapes or without tables.
    """

    def __init__(self, name: str, scores: Any, costs: Costs | WholeCosts, allowed: Allowed | None = None) -> None:
        self.name, self.costs = name, costs
        scores = Scores.check(name, scores, costs.space if isinstance(costs, Costs) else None)
        self.space = scores.space
        if isinstance(costs, Costs):
            self.names = costs.additive
            self._require_shapes(costs, scores)
        else:
            self.names = tuple(costs.names)
        if not isinstance(costs, Costs) and len(scores) > 1:
            raise InputError(f"[{name}] expected costs with tables for the {len(scores)} blocks of {scores.space}, got "
                             f"{type(costs).__name__}, which gives those of whole architectures; count Costs, or rate "
                             "whole architectures as one block")  # fmt: skip
        rated = [[table.rated() for table in cells] for cells in scores.tables]
        starts, ends = states_of(scores.space, [[paths for paths, _ in cells] for cells in rated])
        kept = [[end >= 0 for end in cells] for cells in ends]
        some = [any(mask.any() for mask in cells) for cells in kept]
        if not all(some):
            raise InputError(f"[{name}] expected rated paths in every block, got none in block {some.index(False)}")
        if allowed is not None:
            restrict(name, allowed, scores.space, [[paths for paths, _ in cells] for cells in rated], kept)
        # paths[b][cell]: those with a score that the cell and the rules allow, `[n, L]`.
        self.paths = [[paths[mask] for (paths, _), mask in zip(*block)] for block in zip(rated, kept)]
        self.offsets = np.cumsum([0, *(sum(map(len, cells)) for cells in self.paths)])
        self.scores = _flat([[values for _, values in cells] for cells in rated], kept)
        if scores.space.has_states:
            self.links = link(name, self.offsets, _flat(starts, kept), _flat(ends, kept))
        else:
            self.links = unlinked(self.offsets)

    def _require_shapes(self, costs: Costs, scores: Scores) -> None:
        expected = [[table.shape for table in cells] for cells in scores.tables]
        for cost in costs.additive:
            shapes = [[np.shape(cell) for cell in cells] for cells in costs[cost]]
            if shapes != expected:
                raise InputError(f"[{self.name}] expected the cost {cost!r} with the score tables' shapes {expected}, "
                                 f"got {shapes}; count the costs of the same space")  # fmt: skip

    def require(self, names: Iterable[str]) -> None:
        """Raise InputError for a cost that does not add up over the blocks."""
        for name in names:
            if isinstance(self.costs, Costs):
                self.costs[name]

    def columns(self) -> dict[str, Column]:
        """Columns of the costs that add up over the blocks, by name."""
        costs = self.costs
        if isinstance(costs, Costs):
            values = {name: _flat(costs[name], self.paths, lambda paths: tuple(paths.T)) for name in self.names}
            fixed = costs.fixed
        else:
            each = [costs.of(self.architecture(np.array([i]))) for i in range(self.offsets[-1])]
            values = {name: np.array([known[name] for known in each]) for name in self.names}
            fixed = dict.fromkeys(self.names, 0)
        return {name: cost_column(self.name, name, values[name], self.offsets, fixed[name]) for name in self.names}

    def architecture(self, indices: np.ndarray) -> Architecture:
        """Architecture of one index per block."""
        return Architecture(tuple(self.choice(b, int(i)) for b, i in enumerate(indices)))

    def choice(self, block: int, index: int) -> Choice:
        """Choice of a block by its index there."""
        for cell, paths in enumerate(self.paths[block]):
            if index < len(paths):
                return Choice(cell, tuple(paths[index].tolist()))
            index -= len(paths)
        raise IndexError(index)

    def entry(self, indices: np.ndarray, score: float, totals: Sequence[float]) -> Entry:
        """Entry of one index per block; totals: its costs that add up over the blocks."""
        architecture = self.architecture(indices)
        tied = isinstance(self.costs, Costs) and self.costs.tied
        costs = self.costs.of(architecture) if tied else dict(zip(self.names, totals))
        return Entry(architecture, float(score), costs)

    def problem(
        self,
        limits: Mapping[str, Any] | None,
        at_least: Mapping[str, Any] | None,
        weights: Sequence[float] | None,
        join: str,
        device: str | None = None,
    ) -> Problem:
        """Build the search problem on whole numbers; the arguments are those of `best`."""
        name = self.name
        upper, lower = check_limits(name, limits, at_least, self.costs.names, self._whole)
        self.require((*upper, *lower))
        losses, grid = losses_on_grid(name, self._joined(weights, join), self.offsets)
        bounds = [Limit(cost, upper.get(cost), lower.get(cost)) for cost in self.names]
        return Problem(name, self.offsets, losses, grid, list(self.columns().values()), bounds, self.links, device)

    def _whole(self, cost: str) -> float:
        """Cost that shares refer to: of the reference that the costs name, else of the most expensive architecture."""
        if not isinstance(self.costs, Costs):
            raise InputError(f"[{self.name}] expected a number as the limit on {cost!r}, as costs of whole architectures have no "
                             "greatest one")  # fmt: skip
        reference = self.costs.metadata.get("reference", {})
        return reference[cost] if cost in reference else cost_range(self.space, self.costs, cost)[1]

    def _joined(self, weights: Sequence[float] | None, join: str) -> np.ndarray:
        """Terms of the sum to minimise `[N]`: weighted scores, or weighted logarithms of scores."""
        name = self.name
        if join not in JOINS:
            raise InputError(f"[{name}] expected join to be one of {', '.join(JOINS)}, got {join!r}")
        blocks = len(self.offsets) - 1
        weight = np.ones(blocks) if weights is None else np.asarray(weights, dtype=np.float64)
        if weight.shape != (blocks,) or not (np.isfinite(weight).all() and (weight >= 0).all()):
            raise InputError(f"[{name}] expected {blocks} weights of 0 or more, one per block, got {weights!r}")
        scores = self.scores
        if join == "product":
            if not scores.min() > 0:
                raise InputError(f"[{name}] expected scores above 0 to join by product, got {scores.min()}")
            scores = np.log(scores)
        return scores * np.repeat(weight, np.diff(self.offsets))


def _flat(values: Any, chosen: Any, index: Callable[[np.ndarray], Any] = lambda kept: kept) -> np.ndarray:
    """Chosen values of every cell, block after block, `[N]`; values, chosen: by `[block][cell]`."""
    pairs = (pair for blocks in zip(values, chosen) for pair in zip(*blocks))
    return np.concatenate([np.asarray(cell)[index(kept)] for cell, kept in pairs])
