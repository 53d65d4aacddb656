"""Hidden channels of a unit: found and cut by the dependency graph of torch-pruning."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch_pruning
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from pynas.calls import Call, with_leaf
from pynas.compress.products import attention_of
from pynas.compress.units import Unit, hidden_ends
from pynas.copies import copy_module
from pynas.visits import Visit, trace


@dataclass(frozen=True)
class Reader:
    """A layer that reads hidden channels. columns: `[channels, n]` inputs of the layer that belong to each channel."""

    name: str
    columns: Tensor = field(repr=False, compare=False)


@dataclass(frozen=True)
class Hidden:
    """Hidden channels of a unit that are cut together.

    root: name in the unit of the layer that makes them. channels: their number. parts: parts of equal size, of which each keeps
    channels at the same positions (a grouped convolution's groups). makers: names of the layers that have them as outputs.
    readers: those that have them as inputs, in the order in which they run.
    """

    root: str
    channels: int
    parts: int
    makers: frozenset[str]
    readers: tuple[Reader, ...]


def find_hidden(unit: Unit, ignored: Collection[str] = ()) -> tuple[list[Hidden], list[str]]:
    """Return the sets of hidden channels that can be cut, in the order of their first readers, and reasons for those that cannot.

    ignored: names of layers that must keep their sizes, as those of attention must.
    """
    copied, order, output = _copy(unit), _order(unit), unit.pick(unit.output)
    single = output.ndim == 4 and output[0, 0].numel() == 1
    with _quiet(), _graph(copied, unit) as graph:
        names = {part: name for name, part in copied.named_modules()}
        held = [part for part, name in names.items() if name in ignored]
        groups = [*graph.get_all_groups(held, (_ConvNd, nn.Linear))]
    found, reasons = [], []
    for group in groups:
        hidden = _hidden(group, names, order, single)
        if hidden is None or ({*hidden.makers, *(reader.name for reader in hidden.readers)} & set(ignored)):
            continue
        problem = _problem(unit, hidden)
        if problem is None:
            found.append(hidden)
        elif problem:
            reasons.append(f"channels of {hidden.root}: {problem}")
    return sorted(found, key=lambda hidden: order[hidden.readers[0].name][0]), reasons


def keep_hidden(module: nn.Module, unit: Unit, cuts: Sequence[tuple[Hidden, Sequence[int]]]) -> None:
    """Keep only some hidden channels of a copy of a unit, in place.

    cuts: sets of hidden channels with the channels that stay, in ascending order.
    """
    for hidden, kept in cuts:
        away = sorted(set(range(hidden.channels)) - set(kept))
        if away:
            flags = {name: p.requires_grad for name, p in module.named_parameters()}
            with _quiet(), _graph(module, unit) as graph:
                root = module.get_submodule(hidden.root)
                prune = graph.get_pruner_of_module(root).prune_out_channels
                graph.get_pruning_group(root, prune, away).prune()
            for name, parameter in module.named_parameters():
                parameter.requires_grad_(flags[name])


def _copy(unit: Unit) -> nn.Module:
    return copy_module(unit.module, where="compress").eval()


@contextlib.contextmanager
def _graph(module: nn.Module, unit: Unit) -> Iterator[torch_pruning.DependencyGraph]:
    """Give the dependency graph of a unit's copy on the example's first sample; its cycles of references end with the block."""
    for parameter in module.parameters():
        parameter.requires_grad_()  # frozen layers would be left out in silence
    call = unit.call.head(1).mapped(torch.clone)
    with torch.enable_grad(), _without(module, unit):
        graph = torch_pruning.DependencyGraph().build_dependency(
            module, call, forward_fn=lambda part, call: unit.pick(call(part)), ignored_params=[], verbose=False
        )
    yield graph
    for node in graph.module2node.values():
        node.inputs, node.outputs, node.dependencies = [], [], []


@contextlib.contextmanager
def _without(module: nn.Module, unit: Unit) -> Iterator[None]:
    """Let the attention of a unit's copy return its input: torch-pruning would follow each of its views, without end in some."""
    replaced = []
    for visit in attention_of(unit):
        part, ends = module.get_submodule(visit.name) if visit.name else module, hidden_ends(visit)
        if part is not module and ends is not None:
            part.forward = _returning(visit, *ends)
            replaced.append(part)
    try:
        yield
    finally:
        for part in replaced:
            del part.forward


def _returning(visit: Visit, entry: int, exit: int) -> Callable[..., Any]:
    return lambda *args, **kwargs: with_leaf(visit.output, exit, Call(args, kwargs).leaves[entry] * 1)


def _order(unit: Unit) -> dict[str, tuple[int, int]]:
    """Tick at which each layer of a unit runs, and the positions of its output per sample and channel."""
    visits, _ = trace(unit.module, unit.call.head(1))
    sizes = {}
    for visit in visits:
        output = visit.output
        spatial = output[0, 0].numel() if isinstance(output, Tensor) and output.ndim == 4 else 0
        sizes[visit.name] = (visit.begin, spatial)
    return sizes


def _hidden(
    group: torch_pruning.Group, names: dict[nn.Module, str], order: dict[str, tuple[int, int]], single: bool
) -> Hidden | None:
    """Describe a group; None where a layer of it does not run, nothing reads it, or all of it is squeezed.

    single: the unit's output has one position per sample, so that squeezed channels cannot be told from others.
    """
    root, channels = group[0].dep.target.module, len(group[0].idxs)
    readers, makers, parts = [], set(), 1
    for item in group:
        layer = item.dep.target.module
        if not isinstance(layer, (_ConvNd, nn.Linear)):
            continue
        grouped = getattr(layer, "groups", 1)
        depthwise = grouped > 1 and grouped == layer.out_channels == layer.in_channels
        into = "in_channels" in item.dep.handler.__name__
        if grouped > 1 and not depthwise:
            parts = math.lcm(parts, grouped)
        if not into or depthwise:
            makers.add(names[layer])
            continue
        columns: list[list[int]] = [[] for _ in range(channels)]
        for column, channel in zip(item.idxs, item.root_idxs):
            columns[channel].append(column)
        if len({*map(len, columns)}) > 1:
            return None
        readers.append(Reader(names[layer], torch.tensor(columns)))
    if (
        not readers
        or channels < 2
        or channels % parts
        or not {*makers, *(reader.name for reader in readers)} <= {*order}
    ):
        return None
    if not single and all(order[maker][1] == 1 for maker in makers):
        return None  # one position per sample: the squeezed channels of squeeze-and-excitation
    # The squeeze of squeeze-and-excitation reads means, of which there are too few to refit it or to weigh channels by.
    readers = [reader for reader in readers if order[reader.name][1] != 1] or readers
    readers.sort(key=lambda reader: order[reader.name][0])
    return Hidden(names[root], channels, parts, frozenset(makers), tuple(readers))


def _problem(unit: Unit, hidden: Hidden) -> str | None:
    """Cut half of the channels of a copy and run it: None where that works, "" where the unit's own output would be cut."""
    module, size = _copy(unit), hidden.channels // hidden.parts
    if size < 2:
        return "" if hidden.parts == 1 else f"one channel in each of {hidden.parts} groups"
    call = unit.call.head(1)
    expected = unit.feature(call).shape if unit.residual else unit.pick(call(unit.module)).shape
    try:
        keep_hidden(module, unit, [(hidden, list(spread(range(size // 2), hidden)))])
        with torch.no_grad():
            return None if unit.pick(call.mapped(torch.clone)(module)).shape == expected else ""
    except Exception:  # torch-pruning and the unit itself fail in any way where channels do not fit
        return ""


def spread(kept: Sequence[int], hidden: Hidden) -> Iterator[int]:
    """Yield channels at the same positions of every part, in ascending order."""
    size = hidden.channels // hidden.parts
    for part in range(hidden.parts):
        yield from (part * size + position for position in sorted(kept))


class _quiet(warnings.catch_warnings):
    """Block without warnings: torch-pruning warns of parameters that it handles in its own way."""

    def __enter__(self) -> None:  # type: ignore[override]
        super().__enter__()
        warnings.simplefilter("ignore")
