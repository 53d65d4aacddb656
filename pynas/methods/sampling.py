"""Path samplers: which candidates run in a training step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pynas.errors import InputError
from pynas.spaces import Architecture, Space


def uniform_path(counts: Sequence[int], rng: np.random.Generator) -> tuple[int, ...]:
    """One candidate per layer, independently and uniformly (single path one-shot; DNA, section 3.3).

    counts: candidates per layer, `[L]`.
    """
    return tuple(int(c) for c in rng.integers(0, counts))


def differing_pair(space: Space, rng: np.random.Generator) -> tuple[Architecture, Architecture]:
    """Two architectures that differ in every layer that has a choice (Pi-NAS, section 3.2); the first is uniform.

    Raises:
        InputError: a space whose rules seem to leave no such pair.
    """
    for _ in range(_TRIES):
        first = space.sample(rng)
        choices = []
        for choice, cells in zip(first, space.blocks):
            counts = np.array(cells[choice.cell].counts)
            shift = rng.integers(1, np.maximum(counts, 2))
            choices.append((choice.cell, (np.array(choice.path) + shift) % counts))
        second = Architecture.of(choices)
        if second in space:
            return first, second
    raise InputError(f"[sampling] expected paths of {space} that differ in every layer, got none in {_TRIES} tries")


def fair_architectures(space: Space, rng: np.random.Generator) -> list[Architecture]:
    """As many architectures as a layer has candidates, each candidate of every layer in one of them (FairNAS).

    Where layers have fewer candidates than others, these come more than once. Every block's cell is drawn by size.

    Raises:
        InputError: a space with rules on which candidates go together.
    """
    first = space.sample(rng)
    cells = [cells[choice.cell] for choice, cells in zip(first, space.blocks)]
    rounds = max(count for cell in cells for count in cell.counts)
    columns = [[rng.permutation(np.resize(rng.permutation(count), rounds)) for count in cell.counts] for cell in cells]
    found = [
        Architecture.of((choice.cell, [column[n] for column in block]) for choice, block in zip(first, columns))
        for n in range(rounds)
    ]
    for architecture in found:
        space.check(architecture)
    return found


# Draws before a space is taken to hold no pair.
_TRIES = 200
