"""Mutation and crossover of architectures that stay in their space, whatever rules and boundary states it has."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

from pynas.spaces import Architecture, Choice, Space
from pynas.spaces.space import Cell

# A preferred cell, and a preferred candidate for each of its layers; None: any.
Preference = tuple[int | None, Sequence[int | None]]


def mutate(space: Space, architecture: Architecture, rng: np.random.Generator, probability: float) -> Architecture:
    """Redraw each block's cell and each layer's candidate with `probability`, and redraw the choices that no longer fit."""
    preferences: list[Preference] = []
    for cells, choice in zip(space.blocks, architecture):
        cell = None if len(cells) > 1 and rng.random() < probability else choice.cell
        again = rng.random(len(choice.path)) < probability
        preferences.append((cell, [None if new else candidate for new, candidate in zip(again, choice.path)]))
    return _fitted(space, preferences, rng) or architecture


def crossover(space: Space, first: Architecture, second: Architecture, rng: np.random.Generator) -> Architecture:
    """Take each block's cell and each layer's candidate from a random parent, and redraw the choices that do not fit."""
    preferences: list[Preference] = []
    for choices in zip(first, second):
        chosen = choices[int(rng.integers(2))]
        path: list[int | None] = []
        for layer, candidate in enumerate(chosen.path):
            other = choices[int(rng.integers(2))].path
            path.append(other[layer] if layer < len(other) else candidate)
        preferences.append((chosen.cell, path))
    return _fitted(space, preferences, rng) or first


def _fitted(space: Space, preferences: Sequence[Preference], rng: np.random.Generator) -> Architecture | None:
    """Follow the preferences from front to back where the space allows, else draw; None at a dead end."""
    choices: list[Choice] = []
    state: Hashable = None
    for b, (preferred, candidates) in enumerate(preferences):
        cells = space.cells_after(b, state)
        if not cells:
            return None
        c = preferred if preferred in cells else list(cells)[int(rng.integers(len(cells)))]
        path = _fitted_path(cells[c], candidates, rng)
        if path is None:
            return None
        choices.append(Choice(c, path))
        state = space.end(b, choices[-1])
    return Architecture(tuple(choices))


def _fitted_path(cell: Cell, candidates: Sequence[int | None], rng: np.random.Generator) -> tuple[int, ...] | None:
    path: tuple[int, ...] = ()
    for layer, count in enumerate(cell.counts):
        allowed = [k for k in range(count) if cell.allowed is None or cell.allowed((*path, k))]
        preferred = candidates[layer] if layer < len(candidates) else None
        if preferred in allowed:
            path = (*path, preferred)
        elif allowed:
            path = (*path, allowed[int(rng.integers(len(allowed)))])
        else:
            return None
    return path
