"""Boundary states of chosen paths: the state that each starts from, and the one that it leaves."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

import numpy as np

from pynas.spaces.cell import Cell, Path
from pynas.spaces.space import Space

_States = list[list[np.ndarray]]

# Paths of a cell up to which a space's states of all paths are looked up.
_SMALL = 2**20


def states_of(space: Space, paths: Sequence[Sequence[np.ndarray]]) -> tuple[_States, _States]:
    """Return the state that each path starts from and the one that it leaves, -1 for a path that is not allowed.

    paths: int64 `[n, L]` by `[block][cell]`; both results `[n]`. Of cells of too many paths only these are looked at.
    """
    if not any(cell.allowed or cell.leaves or cell.start is not None for cells in space.blocks for cell in cells):
        none = [[np.zeros(len(some), np.int64) for some in cells] for cells in paths]
        return none, none
    if max(math.prod(cell.counts) for cells in space.blocks for cell in cells) <= _SMALL:
        starts, ends = (
            [[table[tuple(some.T)] for table, some in zip(*block)] for block in zip(tables, paths)]
            for tables in space.boundary_states
        )
        return starts, ends
    numbers: dict[Hashable, int] = {None: 0}

    def number(state: Hashable) -> int:
        return numbers.setdefault(state, len(numbers))

    def left(cell: Cell, path: Path) -> int:
        return number(cell.end(path)) if cell.allows(path) else -1

    blocks = [list(zip(*block)) for block in zip(space.blocks, paths)]
    starts = [[np.full(len(some), number(cell.start)) for cell, some in block] for block in blocks]
    ends = [
        [np.array([left(cell, path) for path in map(tuple, some.tolist())], np.int64) for cell, some in block]
        for block in blocks
    ]
    return starts, ends
