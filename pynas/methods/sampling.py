"""Samplers of the paths that run in a training step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pynas.errors import InputError
from pynas.spaces import Architecture, Cell, Choice, Space

# Tries of `differing_pair` before it gives up.
_TRIES = 200


def uniform_path(counts: Sequence[int], rng: np.random.Generator) -> tuple[int, ...]:
    """Draw one candidate per layer, independently and uniformly (single path one-shot; DNA, section 3.3).

    counts: candidates per layer, `[L]`.
    """
    return tuple(int(c) for c in rng.integers(0, counts))


def fair_paths(counts: Sequence[int], n: int, rng: np.random.Generator) -> list[tuple[int, ...]]:
    """Draw n paths without a common candidate, by a random permutation of each layer's candidates (FairNAS; BossNAS).

    Raises:
        InputError: more paths than a layer has candidates.
    """
    if n > min(counts):
        raise InputError(f"[sampling] expected at most {min(counts)} paths per step under fair sampling, as many as a "
                         f"layer has candidates, got {n}; use fewer paths or sampling='random'")  # fmt: skip
    columns = [rng.permutation(count)[:n] for count in counts]
    return [tuple(int(c) for c in row) for row in zip(*columns)]


class BlockSampler:
    """Sampler of the n paths that a block trains in one step.

    The paths are divided among the cells as evenly as possible, the remaining ones go to cells drawn at random. Within a
    cell "fair" draws by `fair_paths`, "random" draws each path uniformly from the allowed ones.

    cells: the alternative cells of a block. start: boundary state that the block before leaves, None for any.

    Raises:
        InputError: more paths than a layer has candidates, or forbidden paths, under fair sampling.
    """

    def __init__(self, cells: Sequence[Cell], n: int, sampling: str, start: object = None) -> None:
        self._cells = {c: cell for c, cell in enumerate(cells) if cell.follows(start)}
        self._n, self._sampling = n, sampling
        self._listed = {c: list(cell.paths()) for c, cell in self._cells.items() if cell.allowed is not None}
        most = -(-n // max(1, len(self._cells)))
        for cell in self._cells.values():
            if sampling == "fair" and cell.allowed is None:
                fair_paths(cell.counts, most, np.random.default_rng(0))
            elif sampling == "fair":
                raise InputError("[sampling] expected sampling='random' in a space that forbids some paths, got 'fair'")

    def __call__(self, rng: np.random.Generator) -> list[Choice]:
        """Draw the paths of one step."""
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


def differing_pair(space: Space, rng: np.random.Generator) -> tuple[Architecture, Architecture]:
    """Draw two architectures that differ in every layer with a choice (Pi-NAS, section 3.2); the first is uniform.

    Raises:
        InputError: no such pair that the space's rules allow was drawn in 200 tries.
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
    """Draw as many architectures as a layer has candidates, each candidate of every layer in one of them (FairNAS).

    Candidates of layers with fewer ones are in several architectures. A block's cell is drawn with its share of the paths.

    Raises:
        InputError: a space that forbids some paths.
    """
    first = space.sample(rng)
    cells = [cells[choice.cell] for choice, cells in zip(first, space.blocks)]
    rounds = max(count for cell in cells for count in cell.counts)
    columns = [[rng.permutation(np.resize(rng.permutation(count), rounds)) for count in cell.counts] for cell in cells]
    architectures = [
        Architecture.of((choice.cell, [column[n] for column in block]) for choice, block in zip(first, columns))
        for n in range(rounds)
    ]
    for architecture in architectures:
        space.check(architecture)
    return architectures
