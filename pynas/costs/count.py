"""Parameters and multiply-adds of every candidate, as tables over the paths of every cell."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from operator import itemgetter

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from pynas.costs.table import Costs
from pynas.spaces import Space
from pynas.supernets import Supernet
from pynas.supernets.shapes import alone, to_meta
from pynas.supernets.walk import walk

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

    A candidate that shares its weights counts as what it is when taken out (`extract`). A path that is not allowed has 0.

    Raises:
        InputError: paths of a block that end alike and put out different shapes.
    """
    walked = walk(net, tuple(image_shape), lambda module, shape, _: count_module(alone(module, shape), shape))
    tables = {name: walked.tables(itemgetter(name)) for name in NAMES}
    fixed = {name: walked.fixed(itemgetter(name)) for name in NAMES}
    return Costs(tables, fixed, {"space": net.space.name, "image_shape": list(image_shape)})


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
