"""Exact search over score tables: the best architectures under cost limits."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pynas.costs.table import Costs
from pynas.errors import InputError
from pynas.rating.table import ScoreTable
from pynas.search.certificate import Certificate
from pynas.search.grid import cost_column, losses_on_grid
from pynas.search.problem import Limit, Problem
from pynas.search.states import Links, link, unlinked
from pynas.search.traverse import Traversal, run
from pynas.spaces import Architecture, Space

JOINS = ("sum", "product")


@dataclass(frozen=True)
class Entry:
    """An architecture that was found: its score (lower is better) and what it costs, the fixed part included."""

    architecture: Architecture
    score: float
    costs: Mapping[str, float]


@dataclass(frozen=True)
class States:
    """Boundary states of a space that is no product, as HyTra's scale or nats-size's width.

    starts, ends: by `[b][cell]`, int arrays of the score table's shape, the state a path needs to find and the one it
    leaves. follows: bool `[S, S]`, whether a path that needs t may come after one that leaves s, at `[s, t]`; without
    it, where they are equal. The first block's starts and the last one's ends are free.
    """

    starts: Sequence[Sequence[np.ndarray]]
    ends: Sequence[Sequence[np.ndarray]]
    follows: np.ndarray | None = None


def states_of(space: Space) -> States | None:
    """The boundary states of a space, for `best`; None for a product space, which has none."""
    if not space.has_states:
        return None
    numbers: dict[Hashable, int] = {}
    starts = [[np.full(cell.counts, numbers.setdefault(cell.start, len(numbers))) for cell in cells]
              for cells in space.blocks]  # fmt: skip
    ends = [[np.zeros(cell.counts, np.int64) for cell in cells] for cells in space.blocks]
    for cells, arrays in zip(space.blocks, ends):
        for cell, array in zip(cells, arrays):
            for path in cell.paths():
                array[path] = numbers.setdefault(cell.end(path), len(numbers))
    return States(starts, ends)


@dataclass
class Found(Sequence[Entry]):
    """The architectures found, best first, and the proof.

    exhausted: fewer than top_k architectures keep the limits, and these are all.
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
        """Check the answer independently, by enumeration (`pynas.search.verify`). Returns the partial choices seen."""
        return self.traversal.verify()


def best(
    tables: Sequence[Sequence[ScoreTable]],
    costs: Costs,
    limits: Mapping[str, float] | None = None,
    top_k: int = 1,
    *,
    at_least: Mapping[str, float] | None = None,
    weights: Sequence[float] | None = None,
    join: str = "sum",
    states: States | None = None,
) -> Found:
    """The top_k architectures of least joined score whose costs keep every limit; exact, with a certificate.

    tables: by `[b][cell]`, the scores of block b; a path without a score (NaN) is not allowed. The score of an architecture is
    sum_b weights[b] * score_b (DNA eq. 4: its lambda_k, 1 by default), or prod_b score_b ** weights[b], which is the
    sum over the logarithms. limits, at_least: by cost name, inclusive, on the whole cost with its fixed part, e.g.
    `{"madds": 400e6}`. Equal scores are ordered by block, cell and path.

    Raises:
        InputError: tables, costs or states that do not match, infinite scores, an unknown cost, a product of scores
            that are not above 0.
        InfeasibleError: no architecture keeps the limits; says the least that can be reached and which limits clash.
    """
    pools = Pools(tables, costs, states)
    problem = pools.problem("best", limits or {}, at_least or {}, weights, join)
    traversal = run(problem, top_k)
    scores = np.exp(traversal.losses) if join == "product" else traversal.losses
    entries = [
        Entry(pools.architecture(row), float(score), dict(zip(costs.names, totals)))
        for row, score, totals in zip(traversal.indices, scores, traversal.costs.tolist())
    ]
    return Found(entries, traversal.certificate, traversal.exhausted, traversal)


class Pools:
    """Per block, the rated paths of all its cells in (cell, path) order, as flat arrays.

    Raises:
        InputError: a block without a rated path, or costs of other shapes.
    """

    def __init__(self, tables: Sequence[Sequence[ScoreTable]], costs: Costs, states: States | None = None) -> None:
        if len(tables) == 0:
            raise InputError("[search] expected the score tables of at least one block, got none")
        self.costs = costs
        self.shapes = [[table.shape for table in cells] for cells in tables]
        for name in costs.names:
            self._require_shapes(f"the cost {name!r}", costs[name])
        # rated[b][cell]: flat positions in the cell's table.
        self.rated = [[np.flatnonzero(~np.isnan(table.scores)) for table in cells] for cells in tables]
        sizes = [sum(map(len, cells)) for cells in self.rated]
        if 0 in sizes:
            raise InputError(f"[search] expected rated paths in every block, got none in block {sizes.index(0)}")
        self.offsets = np.cumsum([0, *sizes])
        self.scores = self._gather([[table.scores for table in cells] for cells in tables])
        self.links = unlinked(self.offsets) if states is None else self._linked(states)

    def _linked(self, states: States) -> Links:
        self._require_shapes("starts", states.starts)
        self._require_shapes("ends", states.ends)
        return link("search", self.offsets, self._gather(states.starts), self._gather(states.ends), states.follows)

    def _require_shapes(self, what: str, arrays: Sequence[Sequence[np.ndarray]]) -> None:
        shapes = [[np.shape(cell) for cell in cells] for cells in arrays]
        if shapes != self.shapes:
            raise InputError(f"[search] expected {what} with the score tables' shapes {self.shapes}, got {shapes}")

    def _gather(self, tables: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
        return np.concatenate(
            [
                np.asarray(cell).reshape(-1)[rated]
                for b, cells in enumerate(tables)
                for cell, rated in zip(cells, self.rated[b])
            ]
        )

    def architecture(self, indices: np.ndarray) -> Architecture:
        """The architecture of one index per block."""
        return Architecture.of(self._choice(b, int(i)) for b, i in enumerate(indices))

    def _choice(self, b: int, index: int) -> tuple[int, tuple[int, ...]]:
        for cell, rated in enumerate(self.rated[b]):
            if index < len(rated):
                return cell, tuple(int(c) for c in np.unravel_index(rated[index], self.shapes[b][cell]))
            index -= len(rated)
        raise IndexError(index)

    def problem(
        self,
        name: str,
        limits: Mapping[str, float],
        at_least: Mapping[str, float],
        weights: Sequence[float] | None,
        join: str,
    ) -> Problem:
        """The search problem on whole numbers."""
        for which in (*limits, *at_least):
            if which not in self.costs.names:
                raise InputError(f"[{name}] expected limits on {', '.join(self.costs.names)}, got one on {which!r}")
        for value in (*limits.values(), *at_least.values()):
            if math.isnan(value):
                raise InputError(f"[{name}] expected limits that are numbers, got {value}")
        losses, grid = losses_on_grid(name, self._joined(name, weights, join), self.offsets)
        columns = [
            cost_column(name, cost, self._gather(self.costs[cost]), self.offsets, self.costs.fixed[cost])
            for cost in self.costs.names
        ]
        bounds = [Limit(cost, limits.get(cost), at_least.get(cost)) for cost in self.costs.names]
        return Problem(name, self.offsets, losses, grid, columns, bounds, self.links)

    def _joined(self, name: str, weights: Sequence[float] | None, join: str) -> np.ndarray:
        """What is to be summed: weighted scores, or weighted logarithms of scores."""
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
