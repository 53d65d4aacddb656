"""The two-step selector of PreNAS (section 3.2), over the whole space: the best isomer of each group, then the best by SNIP."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from pynas.costs.layers import LayerCosts, LayerTable
from pynas.errors import InputError
from pynas.spaces import Architecture, Cell, Space
from pynas.zero_cost.isomers import exact, greedy_path
from pynas.zero_cost.preferred import Preferred, PreferredSpace
from pynas.zero_cost.saliency import Saliency

ALLOCATIONS = ("exact", "greedy")


def select(
    space: Space,
    scores: Saliency,
    costs: LayerCosts,
    *,
    cost: str = "params",
    interval: float = 1e6,
    top: int = 1,
    normaliser: str = "layer",
    allocation: str = "exact",
    start: float | None = None,
    stop: float | None = None,
) -> PreferredSpace:
    """The `top` architectures of every interval [k, k + 1) * interval of a cost (eq. 8-10).

    First each group of isomers (equal dimension, depth, total heads, total MLP features) is represented by its path of
    the highest normalised score (eq. 13), exactly, or by the paper's greedy allocation. Then the representatives of each
    interval are ranked by SNIP (eq. 4). Every architecture of the space belongs to one group: nothing is sampled.

    normaliser: "layer" or "balance" (`Saliency`). start, stop: only intervals that begin in [start, stop); None for all.

    Raises:
        InputError: an interval that holds no architecture, or an unknown cost, normaliser or allocation.
    """
    if not (interval > 0 and math.isfinite(interval)) or top < 1:
        raise InputError(f"[select] expected an interval above 0 and a top of at least 1, got {interval} and {top}")
    if allocation not in ALLOCATIONS:
        raise InputError(f"[select] expected an allocation of {', '.join(ALLOCATIONS)}, got {allocation!r}")
    normalised, table = scores.normalised(normaliser), costs[cost]
    paths = [_representatives(cell, normalised.layers[c], allocation) for c, cell in enumerate(space.blocks[0])]
    cells = np.repeat(np.arange(len(paths)), [len(some) for some in paths])
    places = np.concatenate([np.arange(len(some)) for some in paths])
    spent, snip = (_along(one, paths) for one in (table, scores.snip))
    bins = np.floor_divide(spent, interval).astype(np.int64)
    members = []
    for number in _wanted(bins, interval, start, stop, cost):
        inside = np.flatnonzero(bins == number)
        if not len(inside):
            raise InputError(f"[select] expected an architecture in every interval of {cost}, got none in "
                             f"[{number * interval:g}, {(number + 1) * interval:g}); take wider intervals than "
                             f"{interval:g}, or others than from {spent.min():g} to {spent.max():g}")  # fmt: skip
        for index in inside[np.lexsort((spent[inside], -snip[inside]))[:top]]:
            architecture = Architecture.of([(cells[index], paths[cells[index]][places[index]])])
            bounds = (number * interval, (number + 1) * interval)
            members.append(Preferred(architecture, bounds, float(snip[index]), normalised.of(architecture),
                                     costs.of(architecture)))  # fmt: skip
    made_from = {"normaliser": normaliser, "allocation": allocation, "top": top}
    return PreferredSpace(space, cost, interval, tuple(sorted(members, key=lambda m: m.costs[cost])), made_from)


def _wanted(bins: np.ndarray, interval: float, start: float | None, stop: float | None, cost: str) -> Iterator[int]:
    first = int(bins.min()) if start is None else math.ceil(start / interval)
    last = max(int(bins.max()), first) if stop is None else math.ceil(stop / interval) - 1
    if first > last:
        raise InputError(f"[select] expected intervals of {cost} between start and stop, got none of {interval:g} "
                         f"between {start} and {stop}")  # fmt: skip
    yield from range(first, last + 1)


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
