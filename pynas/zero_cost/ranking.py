"""Rankings by SNIP of a whole space's architectures in a cost interval: the second step of PreNAS's selector (section 3.2)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np

from pynas.costs import Costs, LayerCosts, LayerTable, cost_range
from pynas.errors import InfeasibleError, InputError
from pynas.rating import Scores, ScoreTable
from pynas.search import Entry, best
from pynas.spaces import Architecture, Cell, Space
from pynas.zero_cost.isomers import exact, greedy_path
from pynas.zero_cost.saliency import Saliency
from pynas.zero_cost.slices import NAME

ALLOCATIONS = ("exact", "greedy")


class Ranked(NamedTuple):
    """An architecture, its SNIP score, and its normalised score; None where the ranking has none."""

    architecture: Architecture
    snip: float
    normalised: float | None


class Ranking(Protocol):
    """A ranking by SNIP. range: least and greatest cost of the ranked architectures; metadata: settings of the selection."""

    range: tuple[float, float]
    metadata: Mapping[str, Any]

    def top(self, low: float, high: float, count: int) -> list[Ranked]:
        """Best architectures with a cost in [low, high), by falling SNIP; an empty list where there are none."""


class IsomerRanking:
    """Ranking of AutoFormer's spaces, where one path represents every group of isomers.

    Isomers have equal dimension, depth, total heads and total MLP features. Their representative has the highest
    normalised score (eq. 13), found exactly or by the paper's greedy allocation.

    normaliser: "layer", "balance" or "snip" (`Saliency`).

    Raises:
        InputError: an unknown cost, normaliser or allocation.
    """

    def __init__(self, space: Space, scores: Saliency, costs: LayerCosts, cost: str, normaliser: str | None,
                 allocation: str | None) -> None:  # fmt: skip
        normaliser, allocation = normaliser or "layer", allocation or "exact"
        if allocation not in ALLOCATIONS:
            raise InputError(f"[select] expected an allocation of {', '.join(ALLOCATIONS)}, got {allocation!r}")
        self._normalised, table = scores.normalised(normaliser), costs[cost]
        self._paths = [
            _representatives(cell, self._normalised.layers[c], allocation) for c, cell in enumerate(space.blocks[0])
        ]
        self._cells = np.repeat(np.arange(len(self._paths)), [len(paths) for paths in self._paths])
        self._places = np.concatenate([np.arange(len(paths)) for paths in self._paths])
        self._costs, self._snip = _along(table, self._paths), _along(scores.snip, self._paths)
        self.range = float(self._costs.min()), float(self._costs.max())
        self.metadata = {"normaliser": normaliser, "allocation": allocation}

    def top(self, low: float, high: float, count: int) -> list[Ranked]:
        """Best architectures with a cost in [low, high); of equal scores, the cheaper one comes first."""
        inside = np.flatnonzero((low <= self._costs) & (self._costs < high))
        chosen = inside[np.lexsort((self._costs[inside], -self._snip[inside]))[:count]]
        return [self._ranked(int(index)) for index in chosen]

    def _ranked(self, index: int) -> Ranked:
        cell = self._cells[index]
        architecture = Architecture.of([(cell, self._paths[cell][self._places[index]])])
        return Ranked(architecture, float(self._snip[index]), self._normalised.of(architecture))


class SearchRanking:
    """Ranking of BigNAS's spaces by exact search for the highest SNIP under both bounds of an interval.

    Every resolution is searched alone: there SNIP rises with the costs, so that the bounds prune well. A resolution whose
    costs are all outside the interval is skipped. Scores are not normalised (section 4.5).

    Raises:
        InputError: an unknown cost, or a normaliser or an allocation.
    """

    def __init__(self, space: Space, scores: Costs, costs: Costs, cost: str, normaliser: str | None,
                 allocation: str | None) -> None:  # fmt: skip
        for option, given in (("normaliser", normaliser), ("allocation", allocation)):
            if given is not None:
                raise InputError(f"[select] expected no {option} for {space.name}, as the selection among convolutional "
                                 f"networks skips the normalisation of isomers, got {given!r}")  # fmt: skip
        self._costs = Costs({cost: costs[cost]}, {cost: costs.fixed[cost]})
        self._parts = []
        for first in self._resolutions(space, scores):
            rest = [[ScoreTable(-table) for table in cells] for cells in scores[NAME][1:]]
            part = Scores(space, [[first], *rest])
            rated = [[~np.isnan(table.scores) for table in cells] for cells in part]
            self._parts.append((part, cost_range(space, self._costs, cost, rated)))
        self.range = min(low for _, (low, _) in self._parts), max(high for _, (_, high) in self._parts)
        self.metadata = {"normaliser": None, "allocation": None}

    @staticmethod
    def _resolutions(space: Space, scores: Costs) -> Iterator[ScoreTable]:
        """First block's table with one rated path, for every resolution."""
        ((table,), (cell,)) = scores[NAME][0], space.blocks[0]
        for path in cell.paths():
            single = np.full(table.shape, np.nan)
            single[path] = -table[path]
            yield ScoreTable(single)

    def top(self, low: float, high: float, count: int) -> list[Ranked]:
        """Best architectures with a cost in [low, high); equal scores keep the order of the space."""
        (name,) = self._costs.names
        limits, at_least = {name: float(np.nextafter(high, low))}, {name: low}
        entries: list[Entry] = []
        for part, (least, greatest) in self._parts:
            if least < high and greatest >= low:
                with contextlib.suppress(InfeasibleError):
                    entries += best(part, self._costs, limits, count, at_least=at_least)
        entries.sort(key=lambda entry: entry.score)
        return [Ranked(entry.architecture, -entry.score, None) for entry in entries[:count]]


def ranking(
    space: Space, scores: Any, costs: Any, cost: str, normaliser: str | None, allocation: str | None
) -> Ranking:
    """Ranking by scores as `saliency` returns them."""
    kind: Any = SearchRanking if isinstance(scores, Costs) else IsomerRanking
    return kind(space, scores, costs, cost, normaliser, allocation)


def _along(table: LayerTable, paths: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([table.paths(cell, of_cell) for cell, of_cell in enumerate(paths)])


def units(cell: Cell) -> np.ndarray:
    """Heads and MLP features of each candidate, whose totals isomers have in common, `[C, 2]`."""
    return np.array([(spec.heads, spec.hidden) for spec in cell.layers[0]])


def _representatives(cell: Cell, values: np.ndarray, allocation: str) -> np.ndarray:
    """Path that represents each group of isomers, `[G, L]`."""
    if allocation == "exact":
        return exact(values, units(cell)).paths
    heads, ratios = (len({getattr(spec, name) for spec in cell.layers[0]}) for name in ("heads", "ratio"))
    grid, depth = values.reshape(len(values), heads, ratios), len(values)
    allocated = [
        greedy_path(grid, (h, r)) for h in range(depth * (heads - 1) + 1) for r in range(depth * (ratios - 1) + 1)
    ]
    return np.array([h * ratios + r for h, r in allocated])
