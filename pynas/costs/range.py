"""The least and the greatest cost that any architecture of a space has."""

from __future__ import annotations

from collections.abc import Hashable

from pynas.costs.layers import LayerCosts
from pynas.costs.table import Costs
from pynas.spaces import Space

Range = tuple[float, float]


def cost_range(space: Space, costs: Costs | LayerCosts, name: str) -> Range:
    """(least, greatest) cost `name` over all architectures, the fixed part included; exact, block after block.

    Raises:
        InputError: no such cost.
    """
    if isinstance(costs, LayerCosts):
        return costs[name].bounds()
    fixed = costs.fixed[name] if name in costs.names else 0
    before: dict[Hashable, Range] = {None: (fixed, fixed)}
    for cells, tables in zip(space.blocks, costs[name]):
        after: dict[Hashable, Range] = {}
        for cell, table in zip(cells, tables):
            if cell.start not in before:
                continue
            low, high = before[cell.start]
            paths = cell.paths() if cell.allowed or cell.end else None
            values = [(None, table.min().item()), (None, table.max().item())] if paths is None else [
                (cell.end and cell.end(path), table[path].item()) for path in paths]  # fmt: skip
            for end, value in values:
                least, most = after.get(end, (float("inf"), -float("inf")))
                after[end] = min(least, low + value), max(most, high + value)
        before = after if space.has_states else {None: _whole(after)}
    return _whole(before)


def _whole(ranges: dict[Hashable, Range]) -> Range:
    lows, highs = zip(*ranges.values())
    return min(lows), max(highs)
