"""The best architectures of a cost interval by SNIP, out of a whole space: the second step of PreNAS's selector (section 3.2)."""

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
    """An architecture, its SNIP, and its normalised score where there is one."""

    architecture: Architecture
    snip: float
    normalised: float | None


class Ranking(Protocol):
    """range: the least and the greatest cost; metadata: how the architectures are chosen."""

    range: tuple[float, float]
    metadata: Mapping[str, Any]

    def top(self, low: float, high: float, count: int) -> list[Ranked]:
        """The best with costs in [low, high), by falling SNIP; none where there is none."""


class IsomerRanking:
    """Of AutoFormer's spaces: every group of isomers (equal dimension, depth, total heads, total MLP features) is
    represented by its path of the highest normalised score (eq. 13), exactly, or by the paper's greedy allocation.

    normaliser: "layer" or "balance" (`Saliency`).

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
        self._cells = np.repeat(np.arange(len(self._paths)), [len(some) for some in self._paths])
        self._places = np.concatenate([np.arange(len(some)) for some in self._paths])
        self._spent, self._snip = (_along(one, self._paths) for one in (table, scores.snip))
        self.range = float(self._spent.min()), float(self._spent.max())
        self.metadata = {"normaliser": normaliser, "allocation": allocation}

    def top(self, low: float, high: float, count: int) -> list[Ranked]:
        """Equal scores: the cheaper one first."""
        inside = np.flatnonzero((low <= self._spent) & (self._spent < high))
        chosen = inside[np.lexsort((self._spent[inside], -self._snip[inside]))[:count]]
        return [self._ranked(int(index)) for index in chosen]

    def _ranked(self, index: int) -> Ranked:
        cell = self._cells[index]
        architecture = Architecture.of([(cell, self._paths[cell][self._places[index]])])
        return Ranked(architecture, float(self._snip[index]), self._normalised.of(architecture))


class SearchRanking:
    """Of BigNAS's spaces: the exact search for the highest SNIP under both bounds of an interval, for every resolution on
    its own, as SNIP rises with the costs there and the bounds prune; a resolution whose costs are all outside is left out.

    Nothing is normalised (section 4.5). Equal scores, as of one network at several resolutions where only its parameters
    count: the one that comes first in the space.

    Raises:
        InputError: an unknown cost, or a normaliser or an allocation.
    """

    def __init__(self, space: Space, scores: Costs, costs: Costs, cost: str, normaliser: str | None,
                 allocation: str | None) -> None:  # fmt: skip
        for what, given in (("normaliser", normaliser), ("allocation", allocation)):
            if given is not None:
                raise InputError(f"[select] expected no {what} for {space.name}, as the selection among convolutional "
                                 f"networks skips the normalisation of isomers, got {given!r}")  # fmt: skip
        self._costs = Costs({cost: costs[cost]}, {cost: costs.fixed[cost]})
        self._parts = []
        for first in self._resolutions(space, scores):
            tables = [[first], *([ScoreTable(-table) for table in cells] for cells in scores[NAME][1:])]
            rated = [[~np.isnan(table.scores) for table in cells] for cells in tables]
            self._parts.append((Scores(space, tables), cost_range(space, self._costs, cost, rated)))
        self.range = min(low for _, (low, _) in self._parts), max(high for _, (_, high) in self._parts)
        self.metadata = {"normaliser": None, "allocation": None}

    @staticmethod
    def _resolutions(space: Space, scores: Costs) -> Iterator[ScoreTable]:
        """The first block's table with one path alone."""
        ((whole,), (cell,)) = scores[NAME][0], space.blocks[0]
        for path in cell.paths():
            alone = np.full(whole.shape, np.nan)
            alone[path] = -whole[path]
            yield ScoreTable(alone)

    def top(self, low: float, high: float, count: int) -> list[Ranked]:
        """Equal scores: in the order of the space."""
        (name,) = self._costs.names
        most = float(np.nextafter(high, low))
        found: list[Entry] = []
        for part, (least, greatest) in self._parts:
            if least < high and greatest >= low:
                with contextlib.suppress(InfeasibleError):
                    found += best(part, self._costs, {name: most}, count, at_least={name: low})
        found.sort(key=lambda entry: entry.score)
        return [Ranked(entry.architecture, -entry.score, None) for entry in found[:count]]


def ranking(
    space: Space, scores: Any, costs: Any, cost: str, normaliser: str | None, allocation: str | None
) -> Ranking:
    """The ranking by scores of either kind that `saliency` gives."""
    kind: Any = SearchRanking if isinstance(scores, Costs) else IsomerRanking
    return kind(space, scores, costs, cost, normaliser, allocation)


def _along(table: LayerTable, paths: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([table.paths(cell, some) for cell, some in enumerate(paths)])


def units(cell: Cell) -> np.ndarray:
    """What each candidate adds to the totals that isomers share: heads and MLP features, `[C, 2]`."""
    return np.array([(spec.heads, spec.hidden) for spec in cell.layers[0]])


def _representatives(cell: Cell, values: np.ndarray, allocation: str) -> np.ndarray:
    """The path of each group of isomers, `[G, L]`."""
    if allocation == "exact":
        return exact(values, units(cell)).paths
    heads, ratios = (len({getattr(spec, name) for spec in cell.layers[0]}) for name in ("heads", "ratio"))
    grid, depth = values.reshape(len(values), heads, ratios), len(values)
    allocated = [
        greedy_path(grid, (h, r)) for h in range(depth * (heads - 1) + 1) for r in range(depth * (ratios - 1) + 1)
    ]
    return np.array([h * ratios + r for h, r in allocated])
