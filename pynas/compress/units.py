"""Residual units of a model: submodules whose output is the sum of their input and a branch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from pynas.calls import Call, hidden_leaf, with_leaf
from pynas.errors import InputError
from pynas.visits import Visit, trace

# Operators of autograd's graph that mix channels: what comes out of them is no longer the input.
_MIXING = ("Convolution", "Addmm", "MmBackward", "Bmm", "Baddbmm", "LinearBackward", "ScaledDotProduct", "MkldnnLinear")
_ADDING = ("AddBackward", "SubBackward", "LerpBackward", "AddcmulBackward")


@dataclass
class Unit:
    """A submodule that may be replaced by a smaller one, or, where it is residual, be left out.

    name: in the model. entry: number of the hidden feature among the leaves of its arguments; exit: among those of its output.
    residual: the output is the sum of the feature and a branch, and has its shape. follows: the feature is the output of the
    unit before. call, output: those of the example. batched: which leaves of the arguments are tensors with samples on the
    first axis.
    """

    name: str
    module: nn.Module = field(repr=False)
    entry: int
    exit: int
    residual: bool
    follows: bool
    call: Call = field(repr=False)
    output: Any = field(repr=False)
    batched: Sequence[bool] = field(repr=False)

    @property
    def has_side(self) -> bool:
        """Whether the unit takes other tensors than the feature."""
        return len(self.call.tensors) > 1

    def feature(self, call: Call) -> Tensor:
        """Return the hidden feature among a call's arguments."""
        return call.leaves[self.entry]

    def pick(self, output: Any) -> Tensor:
        """Return the hidden feature in an output."""
        return tree_leaves(output)[self.exit]

    def with_feature(self, feature: Tensor | None) -> Any:
        """Return an output like the example's, with another hidden feature and nothing else."""
        return with_leaf(self.output, self.exit, feature)


def find_units(model: nn.Module, call: Call) -> list[Unit]:
    """Return the units of a model in the order in which an example runs them, without those inside of others.

    Units that are not residual, as the first ones of stages are, count where a residual one has the same class.

    Raises:
        InputError: a model that does not run on the example, or without a residual unit.
    """
    call = example_of(call)
    try:
        visits, _ = trace(model, call)
        single = {visit.name: visit.call for visit in trace(model, call.head(1))[0]}
    except Exception as error:
        raise InputError(
            f"[compress] expected a model that runs on the example, got {type(error).__name__}: {error}"
        ) from error
    once = _once(visits)
    found = {visit.name: ends for visit in once if (ends := _residual(visit))}
    _drop_stages(found, {visit.name: visit for visit in once})
    outer = {name: ends for name, ends in found.items() if not any(_inside(name, other) for other in found)}
    classes = {type(visit.module) for visit in once if visit.name in outer}
    for visit in once:
        clear = not any(
            visit.name == other or _inside(visit.name, other) or _inside(other, visit.name) for other in outer
        )
        if type(visit.module) in classes and clear and (ends := hidden_ends(visit, same_shape=False)):
            outer[visit.name] = ends
    if not found:
        raise InputError(
            "[compress] expected submodules whose output is the sum of their input and a branch (residual blocks, layers of a "
            f"transformer), each called once, got none in {type(model).__name__}"
        )
    chosen = sorted((visit for visit in once if visit.name in outer), key=lambda visit: visit.begin)
    return list(_linked(chosen, outer, set(found), single))


def example_of(call: Call) -> Call:
    """Return a call with two samples: the first two, or the only one twice."""
    if call.samples > 1:
        return call.head(2)
    return call.mapped(lambda x: torch.cat([x, x]) if x.ndim and len(x) == 1 else x)


def batched_leaves(call: Call, single: Call) -> list[bool]:
    """Tell which leaves of a call are tensors with samples on the first axis, from a call with one sample."""
    return [
        isinstance(leaf, Tensor) and isinstance(one, Tensor) and leaf.ndim > 0 and len(leaf) != len(one)
        for leaf, one in zip(call.leaves, single.leaves)
    ]


def _once(visits: Sequence[Visit]) -> list[Visit]:
    """Calls of modules that are called once, and have weights in submodules."""
    counts: dict[nn.Module, int] = {}
    for visit in visits:
        counts[visit.module] = counts.get(visit.module, 0) + 1
    return [
        visit
        for visit in visits
        if counts[visit.module] == 1
        and any(True for _ in visit.module.children())
        and any(True for _ in visit.module.parameters())
    ]


def hidden_ends(visit: Visit, same_shape: bool = True) -> tuple[int, int] | None:
    """Return the positions of the hidden feature among the leaves of a call's arguments and of its output.

    same_shape: only where both have one shape.
    """
    first, result = hidden_leaf(visit.call.leaves), hidden_leaf(visit.output)
    if first is None or result is None or first[1].ndim != result[1].ndim:
        return None
    return (first[0], result[0]) if first[1].shape == result[1].shape or not same_shape else None


def _residual(visit: Visit) -> tuple[int, int] | None:
    """Positions of the hidden feature where the output is the sum of the input and a branch; None of other modules."""
    ends = hidden_ends(visit)
    if ends is None:
        return None
    leaves = visit.call.leaves
    with torch.enable_grad():
        leaf = leaves[ends[0]].detach().clone().requires_grad_()
        # A unit may write to its input, which a leaf of the graph does not allow.
        leaves = [value.clone() if isinstance(value, Tensor) else value for value in leaves]
        leaves[ends[0]] = leaf.clone()
        output = tree_leaves(visit.call.replaced(leaves)(visit.module))[ends[1]]
    return ends if output.grad_fn is not None and _adds(output.grad_fn, leaf) else None


def _adds(node: Any, leaf: Tensor) -> bool:
    """Whether a graph has a way from its output to a leaf over a sum, and over no operator that mixes channels."""
    waiting, seen = [(node, False)], set()
    while waiting:
        node, added = waiting.pop()
        if (node, added) in seen or any(name in node.name() for name in _MIXING):
            continue
        seen.add((node, added))
        if getattr(node, "variable", None) is leaf:
            if added:
                return True
            continue
        sources = [source for source, _ in node.next_functions if source is not None]
        # A sum with a number, as in a norm, has one source.
        adding = any(name in node.name() for name in _ADDING) and len(sources) > 1
        waiting += [(source, added or adding) for source in sources]
    return False


def _drop_stages(found: dict[str, tuple[int, int]], visits: dict[str, Visit]) -> None:
    """Remove modules that only hold other units: chains of two and more, and wrappers of one."""
    for name in list(found):
        inner = [visits[other] for other in found if _inside(other, name)]
        ins = {other.inputs[found[other.name][0]]: other for other in inner}
        chained = any(ins.get(other.outputs[found[other.name][1]], other) is not other for other in inner)
        outer = visits[name]
        first, last = outer.inputs[found[name][0]], outer.outputs[found[name][1]]
        wraps = any(
            other.inputs[found[other.name][0]] == first and other.outputs[found[other.name][1]] == last
            for other in inner
        )
        if chained or wraps:
            del found[name]


def _inside(name: str, other: str) -> bool:
    return name.startswith(f"{other}.")


def _linked(
    visits: Sequence[Visit], ends: dict[str, tuple[int, int]], residual: set[str], single: dict[str, Call]
) -> Iterator[Unit]:
    before: tuple[Any, ...] | None = None
    for visit in visits:
        entry, exit = ends[visit.name]
        follows = before is not None and visit.inputs[entry] == before
        before = visit.outputs[exit]
        batched = batched_leaves(visit.call, single[visit.name])
        yield Unit(
            visit.name, visit.module, entry, exit, visit.name in residual, follows, visit.call, visit.output, batched
        )
