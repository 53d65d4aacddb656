"""Exact search over score tables: the best architectures under cost limits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from pynas.costs.range import cost_range
from pynas.costs.table import Costs
from pynas.errors import InputError
from pynas.rating.scores import Scores
from pynas.rating.table import ScoreTable
from pynas.search.certificate import Certificate
from pynas.search.grid import Column, cost_column, losses_on_grid
from pynas.search.limits import check_limits
from pynas.search.problem import Limit, Problem
from pynas.search.states import link, unlinked
from pynas.search.traverse import Traversal, run
from pynas.spaces import Architecture
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


@dataclass
class Found(Sequence[Entry]):
    """Architectures, best first, with the certificate of their optimality.

    exhausted: fewer than top_k architectures keep the limits, and these are all of them.
    """

    entries: Sequence[Entry]
    certificate: Certificate
    exhausted: bool
    traversal: Traversal = field(repr=False)

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: Any) -> Any:
        return self.entries[index]

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries)

    def verify(self) -> int:
        """Check the answer by enumeration, apart from the kernel, and return the number of partial choices seen."""
        return self.traversal.verify()


def best(
    scores: Scores | Sequence[Sequence[ScoreTable]],
    costs: Costs | WholeCosts,
    limits: Mapping[str, Any] | None = None,
    top_k: int = 1,
    *,
    at_least: Mapping[str, Any] | None = None,
    weights: Sequence[float] | None = None,
    join: str = "sum",
    device: str | None = None,
) -> Found:
    """Find the top_k architectures of the scores' space with the least joined score whose costs keep every limit, exactly.

    The joined score is sum_b weights[b] * score_b (DNA eq. 4: its lambda_k, 1 by default), or with join="product"
    prod_b score_b ** weights[b], minimised as a sum of logarithms. A path without a score (NaN) is left out. Equal scores
    are ordered by block, cell and path.

    scores: a `Scores`, or score tables by `[block][cell]` where the costs know their space, as those of `pynas.costs.count` do.
    costs: `Costs`; in a space of one block also costs with `names` and `of(architecture)`, of which the rated paths are asked.
    limits, at_least: upper and lower bounds by cost name, inclusive, on the whole cost with its fixed part, e.g.
    `{"madds": 400e6}`, texts such as "400M", "12ms" and "60%"; None (and infinity for an upper one) is no limit. A limit may have
    both sides: `(3e6, 4e6)`, "3M..4M", "==3M", "3M+-5%" (`pynas.search.limits.read_range`). A share is of the costs' reference
    (`costs.metadata["reference"]`), else of the most expensive architecture of the space.
    device: as in `traverse`.

    Raises:
        InputError: tables without their space, costs that do not match, infinite scores, an unknown cost, a limit on a cost
            that does not add up over the blocks (`Costs.tied`), a product of scores that are not above 0, a device that is
            not there.
        InfeasibleError: no architecture keeps the limits; the message says the least cost that can be reached and which
            limits clash.
    """
    pools = Pools("best", scores, costs)
    problem = pools.problem(limits, at_least, weights, join)
    problem.device = device
    traversal = run(problem, top_k)
    joined = np.exp(traversal.losses) if join == "product" else traversal.losses
    entries = [pools.entry(*found) for found in zip(traversal.indices, joined, traversal.costs.tolist())]
    return Found(entries, traversal.certificate, traversal.exhausted, traversal)


class Pools:
    """Per block, the rated paths of all its cells in (cell, path) order, as flat arrays.

    name: the caller's, in front of error messages.

    Raises:
        InputError: tables without their space, a block without a rated path, costs of other shapes or without tables.
    """

    def __init__(self, name: str, scores: Any, costs: Costs | WholeCosts) -> None:
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
        allowed = [[end >= 0 for end in cells] for cells in ends]
        # paths[b][cell]: those with a score that the cell allows, `[n, L]`.
        self.paths = [[paths[kept] for (paths, _), kept in zip(*block)] for block in zip(rated, allowed)]
        sizes = [sum(map(len, cells)) for cells in self.paths]
        if 0 in sizes:
            raise InputError(f"[{name}] expected rated paths in every block, got none in block {sizes.index(0)}")
        self.offsets = np.cumsum([0, *sizes])
        self.scores = _flat([[values for _, values in cells] for cells in rated], allowed)
        if scores.space.has_states:
            self.links = link(name, self.offsets, _flat(starts, allowed), _flat(ends, allowed))
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
        return Architecture.of(self._choice(b, int(i)) for b, i in enumerate(indices))

    def _choice(self, b: int, index: int) -> tuple[int, tuple[int, ...]]:
        for cell, paths in enumerate(self.paths[b]):
            if index < len(paths):
                return cell, tuple(paths[index].tolist())
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
    ) -> Problem:
        """Build the search problem on whole numbers."""
        name = self.name
        upper, lower = check_limits(name, limits, at_least, self.costs.names, self._whole)
        self.require((*upper, *lower))
        losses, grid = losses_on_grid(name, self._joined(weights, join), self.offsets)
        bounds = [Limit(cost, upper.get(cost), lower.get(cost)) for cost in self.names]
        return Problem(name, self.offsets, losses, grid, list(self.columns().values()), bounds, self.links)

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
