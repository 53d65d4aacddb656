"""Random architectures within limits, found by the exact search where hardly any random one keeps them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from pynas.costs.layers import LayerCosts
from pynas.costs.table import Costs
from pynas.errors import InfeasibleError
from pynas.rating.scores import Scores
from pynas.rating.table import ScoreTable
from pynas.search.best import best
from pynas.search.limits import keeps
from pynas.search.traverse import traverse
from pynas.spaces import Architecture, Space

Bounds = Mapping[str, float]


def draw_within(
    space: Space, costs: Costs | LayerCosts, limits: Bounds, at_least: Bounds, rng: np.random.Generator, count: int
) -> list[Architecture]:
    """Draw `count` different architectures that keep the limits, or a few more, or all where there are fewer.

    They are the exact search's best by scores drawn for every path; costs by layer: for every candidate. Any architecture
    within the limits can come first, but not all are equally likely.

    Raises:
        InfeasibleError: no architecture keeps the limits, with the exact search's explanation.
    """
    if isinstance(costs, LayerCosts):
        return _by_layer(space, costs, limits, at_least, rng, count)
    drawn = Scores(space, [[ScoreTable(rng.random(cell.counts)) for cell in cells] for cells in space.blocks])
    named = Costs({name: costs[name] for name in costs.names if name in {*limits, *at_least}}, costs.fixed)
    return [entry.architecture for entry in best(drawn, named, limits, count, at_least=at_least)]


def _by_layer(
    space: Space, costs: LayerCosts, limits: Bounds, at_least: Bounds, rng: np.random.Generator, count: int
) -> list[Architecture]:
    """Draw from every cell of the space's one block; a layer of the cell is a block of the exact search."""
    names = sorted({*limits, *at_least})
    tables = [costs[name] for name in names]
    found: list[Architecture] = []
    for c, cell in enumerate(space.blocks[0]):
        layers = [
            np.stack([table.layers[c][layer][:n] for table in tables], axis=1) for layer, n in enumerate(cell.counts)
        ]

        upper, lower = (
            [bounds[name] - table.fixed[c] if name in bounds else None for name, table in zip(names, tables)]
            for bounds in (limits, at_least)
        )
        scores = [rng.random(n) for n in cell.counts]
        try:
            paths = traverse(scores, layers, upper, count, at_least=lower).indices
        except InfeasibleError:
            continue
        found += [Architecture.of([(c, path)]) for path in paths.tolist()]
    found = [architecture for architecture in found if keeps(costs.of(architecture), limits, at_least)]
    if not found:
        reach = [f"{name} <= {limit:g}: the least that can be reached is {costs[name].bounds()[0]}"
                 for name, limit in limits.items()]  # fmt: skip
        reach += [f"{name} >= {limit:g}: the most that can be reached is {costs[name].bounds()[1]}"
                  for name, limit in at_least.items()]  # fmt: skip
        raise InfeasibleError(f"[search] no choice keeps the limits ({'; '.join(reach)})")
    return [found[i] for i in rng.permutation(len(found))]
