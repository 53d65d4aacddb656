"""Path samplers: which candidate each layer of a cell runs in a training step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pynas.errors import InputError
from pynas.spaces import Cell, Choice

SAMPLERS = ("fair", "random")


def uniform_path(counts: Sequence[int], rng: np.random.Generator) -> tuple[int, ...]:
    """One candidate per layer, independently and uniformly (single path one-shot; DNA, section 3.3).

    counts: candidates per layer, `[L]`.
    """
    return tuple(int(c) for c in rng.integers(0, counts))


def fair_paths(counts: Sequence[int], n: int, rng: np.random.Generator) -> list[tuple[int, ...]]:
    """n paths without a common candidate: a random permutation of each layer's candidates (FairNAS; BossNAS).

    Raises:
        InputError: more paths than a layer has candidates.
    """
    if n > min(counts):
        raise InputError(f"[sampling] expected at most {min(counts)} paths per step under fair sampling, as many as a "
                         f"layer has candidates, got {n}; use fewer paths or sampling='random'")  # fmt: skip
    columns = [rng.permutation(count)[:n] for count in counts]
    return [tuple(int(c) for c in row) for row in zip(*columns)]


class BlockSampler:
    """Draws the paths that a block trains in one step.

    Paths are dealt to the cells as evenly as their number allows, the odd ones to cells drawn at random. Within a cell
    "fair" takes `fair_paths`, "random" draws each path uniformly from those allowed.

    cells: the alternative cells of a block. start: the boundary state that the block before left, None for any.
    """

    def __init__(self, cells: Sequence[Cell], n: int, sampling: str, start: object = None) -> None:
        self._cells = {c: cell for c, cell in enumerate(cells) if start_fits(cell, start)}
        self._n, self._sampling = n, sampling
        self._listed = {c: list(cell.paths()) for c, cell in self._cells.items() if cell.allowed is not None}
        most = -(-n // max(1, len(self._cells)))
        for cell in self._cells.values():
            if sampling == "fair" and cell.allowed is None:
                fair_paths(cell.counts, most, np.random.default_rng(0))
            elif sampling == "fair":
                raise InputError("[sampling] expected sampling='random' in a space that forbids some paths, got 'fair'")

    def __call__(self, rng: np.random.Generator) -> list[Choice]:
        """The paths of one step."""
        numbers = sorted(self._cells)
        shares = {c: self._n // len(numbers) for c in numbers}
        for position in rng.permutation(len(numbers))[: self._n % len(numbers)]:
            shares[numbers[position]] += 1
        return [Choice(c, path) for c in numbers if shares[c] for path in self._paths(c, shares[c], rng)]

    def _paths(self, c: int, n: int, rng: np.random.Generator) -> list[tuple[int, ...]]:
        if c in self._listed:
            listed = self._listed[c]
            return [listed[int(i)] for i in rng.integers(0, len(listed), n)]
        counts = self._cells[c].counts
        return fair_paths(counts, n, rng) if self._sampling == "fair" else [uniform_path(counts, rng) for _ in range(n)]


def start_fits(cell: Cell, state: object) -> bool:
    """Whether a cell can continue from a boundary state."""
    return state is None or cell.start is None or cell.start == state
