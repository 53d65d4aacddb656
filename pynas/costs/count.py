"""Parameters, multiply-adds and memory of every candidate of a supernet."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import reduce
from operator import itemgetter
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from pynas.costs.by_kind import collect, description
from pynas.spaces import Space
from pynas.supernets import Net, kind_of
from pynas.supernets.net import Place
from pynas.supernets.shapes import Shape, extracted, to_meta

NAMES = ("params", "madds", "memory")


def count_module(module: nn.Module, input_shape: Shape) -> tuple[dict[str, int], Shape]:
    """Parameters, MAdds and memory of a module for one sample of `input_shape`, and the shape of its output.

    MAdds are the multiply-adds of convolutions, linear layers and matrix products (attention included); normalisation,
    activations, pooling and additions are not counted. Memory is that of the parameters and of every layer's output, in
    bytes of their types: training keeps these for one image. Nothing is computed: the module runs on the meta device.
    """
    outputs: list[int] = []
    meta = to_meta(module)
    for layer in meta.modules():
        if not list(layer.children()):
            layer.register_forward_hook(lambda _, inputs, output: outputs.append(output.nbytes))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        output = meta(torch.empty(1, *input_shape, device="meta"))
    parameters = list(module.parameters())
    costs = {
        "params": sum(parameter.numel() for parameter in parameters),
        "madds": counter.get_total_flops() // 2,
        "memory": sum(parameter.nbytes for parameter in parameters) + sum(outputs),
    }
    return costs, tuple(output.shape[1:])


def count(net: Net, image_shape: Shape) -> Any:
    """Costs `params` (parameters), `madds` (multiply-adds) and `memory` (bytes) of a supernet, for one image.

    Returns `Costs`, or `LayerCosts` for a kind of space whose cells have too many paths for tables. An architecture's cost
    equals that of its extracted network by `count_module`. A path that is not allowed costs 0.

    image_shape: (3, H, W).

    Raises:
        InputError: paths of a block that leave one boundary state and put out different shapes.
    """
    space, dense = net.space, kind_of(net.space).dense_costs
    known: dict[Hashable, tuple[dict[str, int], Shape]] = {}

    def visitor(module: nn.Module, shape: Shape, place: Place) -> tuple[dict[str, int], Shape]:
        # Without tables, a cell has a layer's candidates again and again.
        key = (place if dense else description(space, place)), shape
        if key not in known:
            known[key] = count_module(extracted(module, shape), shape)
        return known[key]

    walk = net.visit(image_shape, visitor)
    return collect(space, walk, {name: itemgetter(name) for name in NAMES}, {"image_shape": list(image_shape)})


def path_sums(layers: list[np.ndarray]) -> np.ndarray:
    """Sum along every path, `[c_1, ..., c_L]`, of a value per candidate of each layer, `[c_l]`."""
    return reduce(np.add.outer, layers)


def candidate_tables(space: Space, value: Callable[[int, int, int, int], float]) -> list[list[np.ndarray]]:
    """Sum of `value(block, cell, layer, candidate)` along every path, a table per `[block][cell]`."""
    return [
        [
            path_sums([np.array([value(b, c, n, k) for k in range(count)]) for n, count in enumerate(cell.counts)])
            for c, cell in enumerate(cells)
        ]
        for b, cells in enumerate(space.blocks)
    ]
