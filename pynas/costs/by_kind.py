"""Walk over a net, and its costs in the form that a kind of space calls for: dense tables, or a value per layer."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

import psutil
from torch import Tensor, nn

from pynas.costs.layers import LayerCosts, LayerTable
from pynas.costs.table import Costs
from pynas.errors import InputError
from pynas.spaces import Space
from pynas.supernets import Net, kind_of
from pynas.supernets.net import Place, Visitor, Walk, located
from pynas.supernets.on_example import OnExample
from pynas.supernets.shapes import Shape, is_shape
from pynas.supernets.sharing import Holders
from pynas.supernets.walk import LayerWalk

T = TypeVar("T")
# Tables that a walk holds at once, for three costs and for shapes, of 8 bytes per path.
_TABLES = 6


def visit(net: Net, example: Any, visitor: Visitor[T], where: str) -> Walk[T]:
    """Visit every module of a net; an error names the module's place.

    example: shape of one input, as (3, H, W), or an example (`OnExample`). where: stage to name in errors.

    Raises:
        InputError: tables that do not fit in memory, or a module that does not run, or that reads a part of what it shares
            with others and has no `extract`.
    """
    if kind_of(net.space).dense_costs:
        check_tables(net.space)
    seen: list[tuple[nn.Module, Shape, Place]] = []
    on_example = None if is_shape(example) else OnExample(example)

    def visit_one(module: nn.Module, shape: Shape, place: Place) -> tuple[T, Shape]:
        module = module if on_example is None else on_example.wrapped(module, place)
        seen.append((module, shape, place))
        with located(place, where):
            return visitor(module, shape, place)

    walk = net.visit(tuple(example) if on_example is None else on_example.shape, visit_one)
    holders = Holders(module for module, _, _ in seen)
    for module, shape, place in seen:
        with located(place, where):
            holders.check(module, shape)
    return walk


def shape_of(example: Any) -> Shape:
    """Return the shape of one input, from a shape or from an example."""
    if is_shape(example):
        return tuple(example)
    return tuple((example if isinstance(example, Tensor) else example[0]).shape[1:])


def check_tables(space: Space) -> None:
    """Check that tables over the paths of every cell fit in memory.

    Raises:
        InputError: a cell of too many paths.
    """
    free = psutil.virtual_memory().available
    for b, cells in enumerate(space.blocks):
        for c, cell in enumerate(cells):
            paths = math.prod(cell.counts)
            if paths * 8 * _TABLES > free:
                raise InputError(f"[costs] expected cells whose cost tables fit in {free / 2**30:.1f} GiB, got {paths:,} paths in "
                                 f"cell {c} of block {b}; split its layers into several blocks, or count networks one by one "
                                 "with count_module(net.extract(architecture, image_shape), image_shape)")  # fmt: skip


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
