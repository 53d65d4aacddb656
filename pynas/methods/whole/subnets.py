"""Samplers of the architectures that a training step of a weight-entangled supernet runs."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np

from pynas.errors import InputError
from pynas.methods.sampling import uniform_path
from pynas.spaces import Architecture, Space
from pynas.zero_cost.saliency import largest

Sampler = Callable[[np.random.Generator], list[Architecture]]


def balanced(space: Space, members: Sequence[Architecture]) -> Sampler:
    """Draw a group uniformly among those with members, then one of its members (PreNAS, section 3.3).

    The groups of a space of one block are its cells (dimension, depth). Those of a convolutional space are the pairs
    (resolution, total number of layers): by width and depth of a stage, nearly every group would have one member.
    """
    groups: dict[Hashable, list[Architecture]] = {}
    for architecture in members:
        groups.setdefault(_group(architecture), []).append(architecture)
    listed = list(groups.values())

    def draw(rng: np.random.Generator) -> list[Architecture]:
        group = listed[rng.integers(len(listed))]
        return [group[rng.integers(len(group))]]

    return draw


def _group(architecture: Architecture) -> Hashable:
    if len(architecture) == 1:
        return architecture[0].cell
    return architecture[0].path, sum(len(choice.path) for choice in architecture)


def uniform(space: Space, members: Sequence[Architecture]) -> Sampler:
    """Draw one of the members uniformly (figure 5)."""
    return lambda rng: [members[int(rng.integers(len(members)))]]


def resampled(space: Space, members: Sequence[Architecture]) -> Sampler:
    """Draw a new architecture: a dimension, a depth, and in each layer a candidate, each occurring in members (figure 5)."""
    cells = space.blocks[0]
    seen: dict[int, dict[int, set[int]]] = {}
    depths: dict[int, set[int]] = {}
    for architecture in members:
        choice = architecture[0]
        dim = cells[choice.cell].layers[0][0].dim
        depths.setdefault(dim, set()).add(choice.cell)
        for layer, candidate in enumerate(choice.path):
            seen.setdefault(dim, {}).setdefault(layer, set()).add(candidate)
    dims = sorted(depths)

    def draw(rng: np.random.Generator) -> list[Architecture]:
        dim = dims[rng.integers(len(dims))]
        cell = sorted(depths[dim])[rng.integers(len(depths[dim]))]
        path = []
        for layer in range(len(cells[cell].layers)):
            candidates = sorted(seen[dim][layer])
            path.append(candidates[rng.integers(len(candidates))])
        return [Architecture.of([(cell, path)])]

    return draw


def autoformer(space: Space, members: Sequence[Architecture]) -> Sampler:
    """Draw every factor uniformly: dimension, depth, then heads and MLP ratio of each layer (AutoFormer)."""
    cells = space.blocks[0]

    def draw(rng: np.random.Generator) -> list[Architecture]:
        cell = int(rng.integers(len(cells)))
        return [Architecture.of([(cell, uniform_path(cells[cell].counts, rng))])]

    return draw


def spos(space: Space, members: Sequence[Architecture]) -> Sampler:
    """Draw one architecture of the whole space uniformly (single path one-shot)."""
    return lambda rng: [space.sample(rng)]


def fairnas(space: Space, members: Sequence[Architecture]) -> Sampler:
    """Draw as many architectures as a layer has candidates, each candidate of every layer in one of them (FairNAS).

    Their cells are drawn without repetition, if there are enough. A step updates once by the gradients of all.
    """
    cells = space.blocks[0]
    counts = {count for cell in cells for count in cell.counts}
    if len(counts) > 1:
        raise InputError(f"[fairnas] expected layers of equally many candidates, got {sorted(counts)}")
    depth, (count,) = max(len(cell.layers) for cell in cells), counts

    def draw(rng: np.random.Generator) -> list[Architecture]:
        chosen = np.concatenate([rng.permutation(len(cells)) for _ in range(-(-count // len(cells)))])[:count]
        columns = np.stack([rng.permutation(count) for _ in range(depth)], 1)
        return [Architecture.of([(c, row[: len(cells[c].layers)])]) for c, row in zip(chosen.tolist(), columns)]

    return draw


PREFERRED = {"balanced": balanced, "uniform": uniform, "resampled": resampled}
WHOLE = {"autoformer": autoformer, "spos": spos, "fairnas": fairnas}
# Samplers for spaces of several blocks, as BigNAS's.
OF_BLOCKS = {"balanced", "uniform", "spos"}


def ends(net: Any) -> tuple[Architecture, Architecture]:
    """Return the smallest and the largest architecture of a supernet."""
    smallest = Architecture.of((0, [0] * len(cells[0].layers)) for cells in net.space.blocks)
    return smallest, largest(net)
