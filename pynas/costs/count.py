"""Parameters, multiply-adds and memory of every candidate of a supernet."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial, reduce
from operator import attrgetter
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.jit import ScriptModule
from torch.nn.modules.module import register_module_forward_hook

from pynas.calls import Call
from pynas.copies import copy_module
from pynas.costs.by_kind import collect, description, shape_of, visit
from pynas.costs.operators import counting
from pynas.costs.table import Costs
from pynas.costs.tied import count_tied_once
from pynas.errors import InputError
from pynas.spaces import Space
from pynas.supernets import Net, kind_of
from pynas.supernets.modes import device_of
from pynas.supernets.net import Place
from pynas.supernets.shapes import (
    Shape,
    blame,
    extracted,
    is_shape,
    is_view,
    kept_generators,
    sample_shape,
    tensors_in,
    trial,
)

T = TypeVar("T")
NAMES = ("params", "madds", "memory")


@dataclass(frozen=True)
class Counted:
    """Costs of a module for one sample, the shape of its output, and the operators that have no formula for MAdds.

    owned: the module's parameters by id, where the net holds them; none for copies of slices.
    """

    params: int
    madds: int
    memory: int
    shape: Shape
    uncounted: frozenset[str]
    owned: Mapping[int, nn.Parameter] = field(default_factory=dict)


def count_module(module: nn.Module, example: Any) -> tuple[dict[str, int], Shape]:
    """Parameters, MAdds and memory of a module for one sample, and the shape of its output.

    example: shape of one input, as (3, H, W), or a batch as the module takes it (a tensor, a tuple of arguments, or a mapping of
        arguments by name), of which the first sample counts.

    MAdds are the multiply-adds of convolutions, linear layers, recurrent layers and products of matrices and vectors
    (attention included), each of full size whatever a mask leaves out; normalisation, activations, pooling, interpolation,
    elementwise products and sums are not counted, nor is work outside of torch's operators (numpy, kernels of one's own).
    Other operators count 0 and are named in a warning (`uncounted` lists them). Memory is that of the parameters and of
    every layer's output, in bytes of their types: training keeps these for one image. A parameter counts once, however
    often it is used. A copy of the module runs in evaluation mode: for a shape on the meta device, where nothing is computed,
    or on the module's own device where it does not run there; for a batch on the module's own device.

    Returns the costs by name, and the output's shape without the batch axis; of the first tensor where there are several.

    Raises:
        InputError: a module that does not run on such inputs, or whose output does not keep the batch axis.
    """
    counted = _count(module, example)
    _warn(counted.uncounted)
    return {name: getattr(counted, name) for name in NAMES}, counted.shape


def uncounted(module: nn.Module, example: Any) -> list[str]:
    """Names of the operators that a module runs and that `count_module` has no formula for, e.g. `aten._fft_r2c`.

    `torch.utils.flop_counter.register_flop_formula` gives an operator a formula (in FLOPs, 2 per multiply-add).
    """
    return sorted(_count(module, example).uncounted)


def count(net: Net, example: Any) -> Any:
    """Costs `params` (parameters), `madds` (multiply-adds) and `memory` (bytes) of a supernet, for one sample.

    Returns `Costs`, or `LayerCosts` for a kind of space whose cells have too many paths for tables. An architecture's cost
    equals that of its extracted network by `count_module`, also where a module or a parameter stands in several layers.
    Parameters that blocks share, and that no block always has, do not add up over the blocks: `Costs.of` gives the costs
    of an architecture, but `params` and `memory` have no tables to search, and `metadata["not_additive"]` says why. A path
    that is not allowed costs 0. `metadata["uncounted"]` lists the operators without a formula, which count 0 MAdds.

    A candidate that shares its weights as slices needs `extract(shape)` (`pynas.rating.encoded` and `configured` take
    extract=): its costs are those of the plain module.

    example: shape of one input, as (3, H, W); or an input `[B, ...]`, as token ids; or `(input, side)` with the side inputs that
        candidates get in a rating (masks, rotary tables), which the stem and the head get too where they take two arguments.

    Raises:
        InputError: paths of a block that leave one boundary state and put out different shapes; cells of too many paths for
            tables; a module that does not run, or that runs as one setting of a layer that others hold, or reads a part of a
            parameter that others hold, and has no `extract`; its block, cell, layer and candidate are named.
    """
    space, dense = net.space, kind_of(net.space).dense_costs
    known: dict[Hashable, Counted] = {}

    def visitor(module: nn.Module, shape: Shape, place: Place) -> tuple[Counted, Shape]:
        # Without tables, a cell has a layer's candidates again and again.
        key = (place if dense else description(space, place)), shape
        if key not in known:
            known[key] = _count(extracted(module, shape), shape)
        owned = {} if is_view(module) else {id(parameter): parameter for parameter in module.parameters()}
        return replace(known[key], owned=owned), known[key].shape

    walk = visit(net, example, visitor, "costs")
    without_formula = frozenset[str]().union(*(counted.uncounted for counted in known.values()))
    _warn(without_formula)
    metadata = {"image_shape": list(shape_of(example)), "uncounted": sorted(without_formula)}
    costs = collect(space, walk, {name: attrgetter(name) for name in NAMES}, metadata)
    return count_tied_once(costs, walk, net) if isinstance(costs, Costs) else costs


def _count(module: nn.Module, example: Any) -> Counted:
    run = partial(trial, module, tuple(example)) if is_shape(example) else partial(_on_batch, module, example)
    madds, outputs, parameters, output, names = run(_observe)
    params, memory = sum(p.numel() for p in parameters), sum(p.nbytes for p in parameters) + outputs
    return Counted(params, madds, memory, output, names)


def _on_batch(module: nn.Module, batch: Any, run: Callable[[nn.Module, Call], T]) -> T:
    """Return `run(copy, call)` for the first sample of a batch; the module and all random generators stay as they are."""
    call = Call.of(batch, module).head(1).to(device_of(module))
    try:
        with kept_generators(call.tensors[0].device), torch.no_grad():
            return run(copy_module(module, plain=True).eval(), call.mapped(torch.clone))
    except Exception as error:
        raise InputError(
            f"[costs] expected a module that runs on one sample of the example, got {blame(module, error)}"
        ) from error


def _observe(module: nn.Module, x: Tensor | Call) -> tuple[int, int, list[nn.Parameter], Shape, frozenset[str]]:
    """MAdds and bytes of all outputs for one sample, the parameters, the output's shape and the operators without formula."""
    call = x if isinstance(x, Call) else Call((x,))
    madds, outputs, shape, names = _observe_batch(module, call)
    if call.samples > 1:  # 3 samples: costs are a constant part and one per sample, so that 2 f(2) - f(3) = f(1)
        fewer, fewer_outputs, *_ = _observe_batch(module, call.head(2))
        madds, outputs = 2 * fewer - madds, 2 * fewer_outputs - outputs
    return madds, outputs, list(module.parameters()), shape, names


def _observe_batch(module: nn.Module, call: Call) -> tuple[int, int, Shape, frozenset[str]]:
    outputs: list[int] = []
    leaves = set(map(id, _leaves(module)))

    def hook(layer: nn.Module, inputs: Any, output: Any) -> None:
        if id(layer) in leaves:
            outputs.extend(tensor.numel() * tensor.element_size() for tensor in tensors_in(output))

    handle = register_module_forward_hook(hook)  # scripted modules take no hooks of their own
    try:
        with counting() as counter:
            output = call(module)
    finally:
        handle.remove()
    return counter.madds, sum(outputs), sample_shape(module, output, call.samples), frozenset(counter.uncounted)


def _leaves(module: nn.Module) -> Iterator[nn.Module]:
    """Layers without layers inside; torch runs those of a scripted module without hooks."""
    children = [] if isinstance(module, ScriptModule) else list(module.children())
    if not children:
        yield module
    for child in children:
        yield from _leaves(child)


def _warn(names: Iterable[str]) -> None:
    if names:
        warnings.warn(
            f"[costs] expected operators with a formula for MAdds, got {', '.join(sorted(names))}, which count 0; give them "
            "one by torch.utils.flop_counter.register_flop_formula",
            stacklevel=3,
        )


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
