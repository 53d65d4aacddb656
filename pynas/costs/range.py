"""The least and the greatest cost of a space's architectures."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from functools import reduce

import numpy as np

from pynas.costs.layers import LayerCosts
from pynas.costs.table import Costs
from pynas.errors import InputError
from pynas.spaces import Cell, Space

Range = tuple[float, float]


def cost_range(
    space: Space, costs: Costs | LayerCosts, name: str, rated: Sequence[Sequence[np.ndarray]] | None = None
) -> Range:
    """(least, greatest) cost `name` over all architectures, the fixed part included; exact.

    rated: paths that count, bool arrays of the cells' shapes by `[block][cell]`; None for all. BossNAS, for example, rates a
        block after one chosen path only, and its search finds no other architectures.

    Raises:
        InputError: an unknown cost, or no rated paths that connect.
    """
    if isinstance(costs, LayerCosts):
        return costs[name].bounds()
    fixed = costs.fixed[name] if name in costs.names else 0

    def step(b: int, c: int, before: Range) -> Iterator[tuple[Hashable, Range]]:
        for end, least, most in _ranges(space.blocks[b][c], costs[name][b][c], None if rated is None else rated[b][c]):
            yield end, (before[0] + least, before[1] + most)

    ranges: dict[Hashable, Range] = {}
    for b, ranges in enumerate(space.fold((fixed, fixed), step, _join)):
        if not ranges:
            raise InputError(f"[costs] expected rated paths in block {b} that continue those before it, got none")
    return reduce(_join, ranges.values())


def _ranges(cell: Cell, table: np.ndarray, rated: np.ndarray | None) -> Iterator[tuple[Hashable, float, float]]:
    """(state, least, greatest) of the cell's rated paths, one or more per state."""
    if cell.allowed is None and cell.leaves is None:
        values = table if rated is None else table[rated]
        if values.size:
            yield None, values.min().item(), values.max().item()
        return
    for path in cell.paths():
        if rated is None or rated[path]:
            yield cell.end(path), table[path].item(), table[path].item()


def _join(first: Range, second: Range) -> Range:
    return min(first[0], second[0]), max(first[1], second[1])
