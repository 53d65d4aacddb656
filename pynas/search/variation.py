"""Mutation and crossover that stay in the space, also where what may come next depends on what was chosen before."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

from pynas.spaces import Architecture, Space
from pynas.spaces.space import Cell

# A wished cell, and a wished candidate for each of its layers; None: any.
Wish = tuple[int | None, Sequence[int | None]]


def mutate(space: Space, architecture: Architecture, rng: np.random.Generator, probability: float) -> Architecture:
    """Choose each layer's candidate, and each block's cell, anew with `probability`; what no longer fits, too."""
    wishes: list[Wish] = []
    for cells, choice in zip(space.blocks, architecture):
        cell = None if len(cells) > 1 and rng.random() < probability else choice.cell
        again = rng.random(len(choice.path)) < probability
        wishes.append((cell, [None if new else candidate for new, candidate in zip(again, choice.path)]))
    return _built(space, wishes, rng) or architecture


def crossover(space: Space, first: Architecture, second: Architecture, rng: np.random.Generator) -> Architecture:
    """Take each block's cell and each layer's candidate from one of two parents by chance; what does not fit, at random."""
    wishes: list[Wish] = []
    for choices in zip(first, second):
        chosen = choices[int(rng.integers(2))]
        path: list[int | None] = []
        for layer, candidate in enumerate(chosen.path):
            other = choices[int(rng.integers(2))].path
            path.append(other[layer] if layer < len(other) else candidate)
        wishes.append((chosen.cell, path))
    return _built(space, wishes, rng) or first


def _built(space: Space, wishes: Sequence[Wish], rng: np.random.Generator) -> Architecture | None:
    """The wishes as far as the space allows them, from front to back; None where that comes to a dead end."""
    choices: list[tuple[int, tuple[int, ...]]] = []
    state: Hashable = None
    for cells, (wanted, path) in zip(space.blocks, wishes):
        possible = [c for c, cell in enumerate(cells) if cell.follows(state)]
        if not possible:
            return None
        c = wanted if wanted in possible else possible[int(rng.integers(len(possible)))]
        grown = _grown(cells[c], path, rng)
        if grown is None:
            return None
        choices.append((c, grown))
        state = cells[c].end(grown)
    return Architecture.of(choices)


def _grown(cell: Cell, wishes: Sequence[int | None], rng: np.random.Generator) -> tuple[int, ...] | None:
    path: tuple[int, ...] = ()
    for layer, count in enumerate(cell.counts):
        wish = wishes[layer] if layer < len(wishes) else None
        if wish is not None and wish < count and (cell.allowed is None or cell.allowed((*path, wish))):
            path = (*path, wish)
            continue
        possible = [k for k in range(count) if cell.allowed is None or cell.allowed((*path, k))]
        if not possible:
            return None
        path = (*path, possible[int(rng.integers(len(possible)))])
    return path
