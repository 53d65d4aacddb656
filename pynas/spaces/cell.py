"""A cell: layers of candidates in sequence, its paths, and architectures from the cells of several blocks."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from pynas.errors import InputError
from pynas.spaces.architecture import Architecture

Path = tuple[int, ...]
Rule = Callable[[Path], bool]


@dataclass(frozen=True)
class Cell:
    """Layers in sequence; `layers[l]` holds the candidates of layer l, each described by a plain object.

    allowed: called with every prefix of a path and with whole paths; False forbids every path that begins with the prefix.
        None allows all paths.
    start: the boundary state that the cell continues from; None continues from any.
    leaves: called with a path, returns the boundary state that the path leaves for the next block; None leaves none.

    A space whose blocks depend on each other has, in each block, a cell for every state that the block can start from.
    """

    layers: tuple[tuple[Any, ...], ...]
    allowed: Rule | None = None
    start: Hashable = None
    leaves: Callable[[Path], Hashable] | None = None

    @property
    def counts(self) -> tuple[int, ...]:
        """Candidates per layer."""
        return tuple(len(candidates) for candidates in self.layers)

    @cached_property
    def size(self) -> int:
        """Number of paths."""
        return math.prod(self.counts) if self.allowed is None else sum(1 for _ in self.paths())

    @cached_property
    def ends(self) -> Counter[Hashable]:
        """Number of paths by the boundary state that they leave."""
        return Counter({None: self.size}) if self.leaves is None else Counter(map(self.leaves, self.paths()))

    def end(self, path: Path) -> Hashable:
        """Boundary state that a path leaves for the next block; None where the space has no states."""
        return None if self.leaves is None else self.leaves(path)

    def follows(self, state: Hashable) -> bool:
        """Whether the cell can continue from a boundary state; None stands for any state."""
        return state is None or self.start is None or self.start == state

    def paths(self) -> Iterator[Path]:
        """All allowed paths in lexicographic order."""
        yield from np.ndindex(*self.counts) if self.allowed is None else self._extended(())

    def allows(self, path: Path) -> bool:
        """Whether the rule allows a path and all its prefixes."""
        return self.allowed is None or all(self.allowed(path[:depth]) for depth in range(1, len(path) + 1))

    def _extended(self, prefix: Path) -> Iterator[Path]:
        if len(prefix) == len(self.layers):
            yield prefix
            return
        for candidate in range(len(self.layers[len(prefix)])):
            longer = (*prefix, candidate)
            if self.allowed is None or self.allowed(longer):
                yield from self._extended(longer)


def connect(blocks: Sequence[Sequence[Cell]], find: Callable[[int, Cell], Path | None]) -> Architecture | None:
    """Build an architecture from the first cell of every block that continues from the state before it and has a path.

    find: called with a block's number and a cell, returns a path of the cell, or None. The result is None where no cell of
        a block has a path.
    """
    choices: list[tuple[int, Path]] = []
    state: Hashable = None
    for b, cells in enumerate(blocks):
        paths = [(c, find(b, cell)) for c, cell in enumerate(cells) if cell.follows(state)]
        chosen = next(((c, path) for c, path in paths if path is not None), None)
        if chosen is None:
            return None
        choices.append(chosen)
        state = cells[chosen[0]].end(chosen[1])
    return Architecture.of(choices)


def connect_layers(blocks: Sequence[Sequence[Cell]], path: Path) -> Architecture | None:
    """Build an architecture from a candidate per layer of the whole network; the cells of a block are equally deep."""
    firsts = [0, *itertools.accumulate(len(cells[0].layers) for cells in blocks)]
    return connect(blocks, lambda b, cell: path[firsts[b] : firsts[b + 1]])


def rules_by_cell(allowed: Any, sizes: list[int], name: str) -> Sequence[Sequence[Rule | None]]:
    """Rules by block and cell, from such lists, from the rule of a single cell, or from None; sizes: cells per block.

    Raises:
        InputError: rules of other numbers of blocks or cells.
    """
    if allowed is None:
        return [[None] * size for size in sizes]
    if callable(allowed) and sizes == [1]:
        return [[allowed]]
    if callable(allowed):
        got = "one rule"
    elif not isinstance(allowed, Sequence) or not all(isinstance(rules, Sequence) for rules in allowed):
        got = f"{type(allowed).__name__} without a list per block"
    elif [*map(len, allowed)] != sizes:
        got = str([*map(len, allowed)])
    else:
        return allowed
    raise InputError(f"[{name}] expected a rule or None for every cell, {sizes} by block, got {got}; pass allowed[block][cell], "
                     "for a single cell also the rule itself")  # fmt: skip
