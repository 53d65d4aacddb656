"""Parameters and multiply-adds of every candidate, as tables over the paths of every cell."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from pynas.costs.table import Costs
from pynas.errors import InputError
from pynas.spaces import Space
from pynas.supernets import Supernet
from pynas.supernets.shapes import to_meta

NAMES = ("params", "madds", "memory")


def count_module(module: nn.Module, input_shape: tuple[int, ...]) -> tuple[dict[str, int], tuple[int, ...]]:
    """Parameters, MAdds and memory of a module for one sample of `input_shape`, and the shape of its output.

    MAdds are the multiply-adds of convolutions, linear layers and matrix products (attention included); normalisation,
    activations, pooling and additions are not counted. Memory is that of the parameters and of every layer's output in
    bytes of their own types: what training keeps for one image. Nothing is computed: the module runs on the meta device.
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


def count(net: Supernet, image_shape: tuple[int, int, int]) -> Costs:
    """Cost tables `params` (parameters), `madds` (multiply-adds) and `memory` (bytes) of a supernet, for one image.

    image_shape: (3, H, W). An architecture's cost equals what `count_module` counts on its exported network.

    Raises:
        InputError: candidates of a layer, or cells of a block, that put out different shapes.
    """
    fixed = dict.fromkeys(NAMES, 0)
    tables: dict[str, list[list[np.ndarray]]] = {name: [] for name in NAMES}

    def count_fixed(module: nn.Module | None, shape: tuple[int, ...]) -> tuple[int, ...]:
        if module is None:
            return shape
        costs, shape = count_module(module, shape)
        for name, value in costs.items():
            fixed[name] += value
        return shape

    shape = count_fixed(net.stem, tuple(image_shape))
    for b, described in enumerate(net.space.blocks):
        cells = [_count_cell(net.layers(b, c), shape, f"block {b}, cell {c}") for c in range(len(described))]
        if len({end for _, end in cells}) > 1:
            raise InputError(f"[costs] expected the cells of block {b} to end with one shape, "
                             f"got {[end for _, end in cells]}")  # fmt: skip
        for name in tables:
            tables[name].append([costs[name] for costs, _ in cells])
        shape = cells[0][1]
    count_fixed(net.head, shape)
    return Costs(tables, fixed, {"space": net.space.name, "image_shape": list(image_shape)})


def _count_cell(
    layers: list[list[nn.Module]], shape: tuple[int, ...], where: str
) -> tuple[dict[str, np.ndarray], tuple[int, ...]]:
    per_layer: dict[str, list[list[int]]] = {name: [] for name in NAMES}
    for number, layer in enumerate(layers):
        counted = [count_module(candidate, shape) for candidate in layer]
        ends = {end for _, end in counted}
        if len(ends) > 1:
            raise InputError(f"[costs] expected the candidates of layer {number} of {where} to put out one shape, "
                             f"got {[end for _, end in counted]}")  # fmt: skip
        shape = ends.pop()
        for name, values in per_layer.items():
            values.append([costs[name] for costs, _ in counted])
    return {name: path_sums([np.array(v, dtype=np.int64) for v in values]) for name, values in per_layer.items()}, shape


def path_sums(layers: list[np.ndarray]) -> np.ndarray:
    """From a value per candidate of each layer, `[c_l]`, to the sum along every path, `[c_1, ..., c_L]`."""
    return reduce(np.add.outer, layers)


def candidate_tables(space: Space, value: Callable[[int, int, int, int], float]) -> list[list[np.ndarray]]:
    """Tables over the paths of every cell from `value(block, cell, layer, candidate)`."""
    return [
        [
            path_sums([np.array([value(b, c, n, k) for k in range(count)]) for n, count in enumerate(cell.counts)])
            for c, cell in enumerate(cells)
        ]
        for b, cells in enumerate(space.blocks)
    ]
