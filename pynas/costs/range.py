"""The least and the greatest cost that any architecture of a space has."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence

import numpy as np

from pynas.costs.layers import LayerCosts
from pynas.costs.table import Costs
from pynas.errors import InputError
from pynas.spaces import Cell, Space

Range = tuple[float, float]


def cost_range(
    space: Space, costs: Costs | LayerCosts, name: str, rated: Sequence[Sequence[np.ndarray]] | None = None
) -> Range:
    """(least, greatest) cost `name` over all architectures, the fixed part included; exact, block after block.

    rated: by `[b][cell]`, bool, the shape of the cell's table: the paths that count; None: all. Where a block was rated after
    one chosen path only, as BossNAS does, others cannot be found.

    Raises:
        InputError: no such cost, or no rated paths that connect.
    """
    if isinstance(costs, LayerCosts):
        return costs[name].bounds()
    fixed = costs.fixed[name] if name in costs.names else 0
    before: dict[Hashable, Range] = {None: (fixed, fixed)}
    for b, cells in enumerate(space.blocks):
        after: dict[Hashable, Range] = {}
        for c, cell in enumerate(cells):
            if cell.start not in before:
                continue
            low, high = before[cell.start]
            for end, least, most in _ranges(cell, costs[name][b][c], None if rated is None else rated[b][c]):
                known = after.get(end, (float("inf"), -float("inf")))
                after[end] = min(known[0], low + least), max(known[1], high + most)
        if not after:
            raise InputError(f"[costs] expected rated paths in block {b} that continue those before it, got none")
        before = after if space.has_states else {None: _whole(after)}
    return _whole(before)


def _ranges(cell: Cell, table: np.ndarray, rated: np.ndarray | None) -> Iterator[tuple[Hashable, float, float]]:
    """(state, least, greatest) of a cell's paths, or of some of them with the same state."""
    if cell.allowed is None and cell.leaves is None:
        values = table if rated is None else table[rated]
        if values.size:
            yield None, values.min().item(), values.max().item()
        return
    for path in cell.paths():
        if rated is None or rated[path]:
            yield cell.end(path), table[path].item(), table[path].item()


def _whole(ranges: dict[Hashable, Range]) -> Range:
    lows, highs = zip(*ranges.values())
    return min(lows), max(highs)
