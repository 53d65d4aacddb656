"""Diverse best architectures: each the best of those that differ from all before it in so many layers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pynas.costs.table import Costs
from pynas.errors import InfeasibleError, InputError
from pynas.rating.scores import Scores
from pynas.rating.table import ScoreTable
from pynas.search.best import Found, found_by
from pynas.search.grid import Column
from pynas.search.pools import Entry, Pools, WholeCosts
from pynas.search.problem import Limit
from pynas.search.rules import Allowed
from pynas.search.traverse import run
from pynas.spaces import Architecture, Cell, Choice, Space


@dataclass(frozen=True)
class Diverse(Sequence[Entry]):
    """Architectures that differ from each other in at least `distance` layers, in the order in which they were found.

    found: the exact search of each, with its certificate: of the one architecture that is best beside those before it.
    distances: layers in which two differ, int `[n, n]`. exhausted: no further architecture within the limits differs so far.
    """

    found: Sequence[Found]
    distance: int
    distances: np.ndarray
    exhausted: bool

    def __len__(self) -> int:
        return len(self.found)

    def __getitem__(self, index: Any) -> Any:
        return [found[0] for found in self.found][index]

    def __iter__(self) -> Iterator[Entry]:
        return (found[0] for found in self.found)

    def verify(self) -> int:
        """Check every search by enumeration, as `Found.verify`, and return the number of partial choices seen."""
        return sum(found.verify() for found in self.found)


def diverse(
    scores: Scores | Sequence[Sequence[ScoreTable]],
    costs: Costs | WholeCosts,
    limits: Mapping[str, Any] | None = None,
    top_k: int = 5,
    *,
    distance: int,
    at_least: Mapping[str, Any] | None = None,
    weights: Sequence[float] | None = None,
    join: str = "sum",
    allowed: Allowed | None = None,
    device: str | None = None,
) -> Diverse:
    """Find the best architecture within the limits, then again and again the best that differs enough from those before it.

    This is diverse M-best (Batra et al., ECCV 2012) with a Hamming ball: the k-th architecture has the least joined score of all
    that differ from each of the k-1 before it in at least `distance` layers (`layer_distance`), exactly. The set is greedy:
    another set of as many that differ so far may have a smaller sum of scores.

    distance: layers, at least 1. Other arguments, and what is raised: as in `best`.

    Raises:
        InputError: as `best`, or a distance of less than one or more than all layers.
    """
    pools = Pools("diverse", scores, costs, allowed)
    deepest = sum(max(len(cell.layers) for cell in cells) for cells in pools.space.blocks)
    for name, value, most in (("top_k", top_k, None), ("distance", distance, deepest)):
        if not isinstance(value, (int, np.integer)) or value < 1 or (most is not None and value > most):
            raise InputError(f"[diverse] expected a {name} of 1 {f'to {most}' if most else 'or more'}, got {value!r}")
    problem = pools.problem(limits, at_least, weights, join, device)
    found: list[Found] = []
    for number in range(top_k):
        try:
            found.append(found_by(pools, run(problem, 1), join))
        except InfeasibleError:
            if not found:
                raise
            break
        column = Column(_distances(pools, found[-1][0].architecture), 0, None)
        limit = Limit(f"distance to number {number + 1}", lower=distance)
        problem = replace(problem, columns=[*problem.columns, column], limits=[*problem.limits, limit])
    networks = [each[0].architecture for each in found]
    between = np.array([[layer_distance(pools.space, one, other) for other in networks] for one in networks])
    return Diverse(found, int(distance), between, len(found) < top_k)


def layer_distance(space: Space, one: Architecture, other: Architecture) -> int:
    """Number of layers in which two architectures of a space differ.

    Where they take the same cell of a block, these are the layers with other candidates; where they take different ones, all
    layers of the deeper cell. Cells with the same candidates that start from different boundary states are the same here.
    """
    return sum(
        int(_differ(cells, first, second.cell, np.array([second.path]))[0])
        for cells, first, second in zip(space.blocks, one, other)
    )


def _differ(cells: Sequence[Cell], choice: Choice, number: int, paths: np.ndarray) -> np.ndarray:
    """Number of layers in which the paths `[n, L]` of a cell, given by its number, differ from a choice of the block, `[n]`."""
    own, cell = cells[choice.cell], cells[number]
    if number == choice.cell or (own.start != cell.start and own.layers == cell.layers):
        return (paths != np.array(choice.path)).sum(1)
    return np.full(len(paths), max(len(own.layers), len(cell.layers)))


def _distances(pools: Pools, architecture: Architecture) -> np.ndarray:
    """Layers in which every path differs from an architecture's choice in its block, int64 `[N]`."""
    return np.concatenate([
        _differ(cells, choice, number, paths)
        for cells, choice, block in zip(pools.space.blocks, architecture, pools.paths) for number, paths in enumerate(block)
    ])  # fmt: skip
