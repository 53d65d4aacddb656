"""Evolution of a population of a block's paths, for blocks that are too large to rate every path."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from pynas.errors import InputError
from pynas.methods.sampling import uniform_path
from pynas.spaces import Cell, Choice


def evolve(
    rate: Callable[[Sequence[Choice]], Mapping[Choice, float]],
    cells: Sequence[Cell],
    size: int,
    generations: int,
    rng: np.random.Generator,
    start: object = None,
) -> dict[Choice, float]:
    """Evolve a population of paths and return the scores of its last generation (BossNAS, section 3.3).

    Each generation keeps the better half and breeds the rest: a child is crossed from two parents of one cell, layer by
    layer, or is a parent with one candidate changed.

    rate: called with a population, returns its scores by the distance to its own centre (eq. 5). start: boundary state to
    continue from.

    Raises:
        InputError: a population of fewer than two paths or of more than there are, or no generation.
    """
    breeder = Breeder(cells, start)
    if size < 2:
        raise InputError(f"[population] expected at least two paths, since one alone is its own centre, got {size}")
    if generations < 1:
        raise InputError(f"[population] expected at least one generation, got {generations}")
    if size > breeder.size:
        raise InputError(f"[population] expected at most the block's {breeder.size} paths, got {size}; "
                         "use population=None to rate all of them")  # fmt: skip
    population: list[Choice] = []
    scores: dict[Choice, float] = {}
    for _ in range(generations):
        parents = sorted(population, key=lambda choice: (scores[choice], choice.cell, choice.path))[: -(-size // 2)]
        population = list(parents)
        while len(population) < size:
            child = breeder.child(parents, rng) if parents else breeder.draw(rng)
            if child in population or not breeder.allows(child):
                child = breeder.draw(rng)  # a random path keeps the population diverse, and the loop ends
            if child not in population:
                population.append(child)
        scores = dict(rate(population))
    return scores


class Breeder:
    """Draws and changes paths of the cells that can continue from a boundary state."""

    def __init__(self, cells: Sequence[Cell], start: object = None) -> None:
        self._cells = {c: cell for c, cell in enumerate(cells) if cell.follows(start)}
        self._listed = {c: list(cell.paths()) for c, cell in self._cells.items() if cell.allowed is not None}

    @property
    def size(self) -> int:
        """Number of paths."""
        return sum(cell.size for cell in self._cells.values())

    def allows(self, choice: Choice) -> bool:
        """Whether the space's rules allow the choice."""
        return self._cells[choice.cell].allows(choice.path)

    def draw(self, rng: np.random.Generator) -> Choice:
        """Draw a path uniformly."""
        sizes = np.array([cell.size for cell in self._cells.values()], dtype=np.float64)
        c = list(self._cells)[int(rng.choice(len(sizes), p=sizes / sizes.sum()))]
        if c in self._listed:
            return Choice(c, self._listed[c][int(rng.integers(len(self._listed[c])))])
        return Choice(c, uniform_path(self._cells[c].counts, rng))

    def child(self, parents: Sequence[Choice], rng: np.random.Generator) -> Choice:
        """Return a child of the parents, which the space's rules may forbid."""
        one = parents[int(rng.integers(len(parents)))]
        mates = [parent for parent in parents if parent.cell == one.cell and parent != one]
        if mates and rng.random() < 0.5:
            other = mates[int(rng.integers(len(mates)))]
            return Choice(one.cell, tuple(a if rng.random() < 0.5 else b for a, b in zip(one.path, other.path)))
        path, layer = list(one.path), int(rng.integers(len(one.path)))
        path[layer] = int(rng.integers(self._cells[one.cell].counts[layer]))
        return Choice(one.cell, tuple(path))
