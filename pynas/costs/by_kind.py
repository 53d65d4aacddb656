"""Costs in the form that a kind of space calls for: dense tables, or a value per layer where cells have too many paths."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

from pynas.costs.layers import LayerCosts, LayerTable
from pynas.costs.table import Costs
from pynas.errors import InputError
from pynas.spaces import Space
from pynas.supernets import kind_of
from pynas.supernets.net import Place, Walk
from pynas.supernets.walk import LayerWalk

T = TypeVar("T")


def collect(
    space: Space, walk: Walk[T], values: Mapping[str, Callable[[T], float]], metadata: Mapping[str, Any]
) -> Costs | LayerCosts:
    """Costs by name from the walk of a net; values: cost of a module, by the cost's name."""
    metadata = {"space": space.name, **metadata}
    if kind_of(space).dense_costs:
        tables = {name: walk.tables(value) for name, value in values.items()}
        return Costs(tables, {name: walk.fixed(value) for name, value in values.items()}, metadata, space=space)
    by_layer = cast(LayerWalk[T], walk).by_layer
    return LayerCosts({name: LayerTable(*by_layer(value)) for name, value in values.items()}, metadata)


def description(space: Space, place: Place) -> Hashable:
    """Key of the module at a place: candidates that one builder makes from equal descriptions have one key."""
    if isinstance(place[0], str) or space.kind == "own":
        return place
    block, cell, layer, candidate = place
    return space.blocks[block][cell].layers[layer][candidate]


def load(path: str | Path) -> Costs | LayerCosts:
    """Read a file that `Costs.save` or `LayerCosts.save` wrote.

    Raises:
        InputError: a file that is missing, damaged, of another kind or of another version.
    """
    try:
        return Costs.load(path)
    except InputError as error:
        try:
            return LayerCosts.load(path)
        except InputError:
            raise error from None
