"""Parameters that stand in several places of a net: each counts once per architecture that uses it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from itertools import combinations
from typing import Any

import numpy as np
from torch import nn

from pynas.costs.table import Costs, Tied
from pynas.supernets.net import Place


def count_tied_once(costs: Costs, walk: Any, net: Any) -> Costs:
    """Take the repetitions of parameters out of the tables `params` and `memory`.

    Parameters of one block count once in each path that uses them. Of those that several parts share, the ones in the stem,
    in the head or in every path of some block count in the fixed part; the others become `Costs.tied`.

    walk: `Walk` of values whose `owned` are the parameters of a module by id.
    """
    groups = _groups(walk)
    allowed = _allowed(walk, net) if groups else []
    for group in groups:
        values = {"params": sum(p.numel() for p in group), "memory": sum(p.nbytes for p in group)}
        times = _times(id(group[0]))
        fixed, tables = walk.fixed(times), walk.tables(times)
        users = [b for b, cells in enumerate(tables) if any(uses.any() for uses in cells)]
        everywhere = [b for b in users if all((uses[mask] > 0).all() for uses, mask in zip(tables[b], allowed[b]))]
        always = fixed or (len(users) > 1 and everywhere)
        for name, value in values.items():
            if always:
                costs.fixed = {**costs.fixed, name: costs.fixed[name] + value * (1 - fixed)}
            for b in users:
                for table, uses in zip(costs.tables[name][b], tables[b]):
                    table -= value * (uses if always else np.maximum(uses - 1, 0))
        if not always and len(users) > 1:
            costs.tied = [*costs.tied, Tied(values, {b: [uses > 0 for uses in tables[b]] for b in users})]
            reason = f"the blocks {', '.join(map(str, users))} share {_name(net, group[0])}"
            costs.metadata = {**costs.metadata, "not_additive": dict.fromkeys(values, reason)}
    return costs


def _times(parameter: int) -> Callable[[Any], int]:
    return lambda value: int(parameter in value.owned)


def _groups(walk: Any) -> list[list[nn.Parameter]]:
    """Parameters that an architecture may meet more than once; those of one group stand in the same places."""
    places: dict[int, list[Place]] = defaultdict(list)
    parameters: dict[int, nn.Parameter] = {}
    for value, place in walk.placed():
        for key, parameter in value.owned.items():
            places[key].append(place)
            parameters[key] = parameter
    groups: dict[tuple[Place, ...], list[nn.Parameter]] = defaultdict(list)
    for key, where in places.items():
        if any(_both(one, other) for one, other in combinations(where, 2)):
            groups[tuple(where)].append(parameters[key])
    return list(groups.values())


def _both(one: Place, other: Place) -> bool:
    """Whether one architecture may run both places: not two candidates of a layer, nor layers of two cells of a block."""
    if one[0] != other[0] or isinstance(one[0], str) or one == other:
        return True
    return one[1] == other[1] and one[2] != other[2]


def _allowed(walk: Any, net: Any) -> list[list[np.ndarray]]:
    """Whether each path is allowed, bool by `[block][cell]`: a path that is not has no layers."""
    layers = walk.tables(lambda _: 1)
    return [[counts > 0 if cell.allowed else np.ones(cell.counts, bool) for cell, counts in zip(*block)]
            for block in zip(net.space.blocks, layers)]  # fmt: skip


def _name(net: Any, parameter: nn.Parameter) -> str:
    return next((name for name, other in net.named_parameters() if other is parameter), "parameters")
