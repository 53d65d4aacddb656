"""Candidates of a unit: the unit as it is, left out, or with fewer hidden channels, fewer heads or smaller kernels."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from pynas.calls import Call
from pynas.compress.heads import Heads, find_heads, keep_heads, with_layers
from pynas.compress.kernels import crop_kernel, find_kernels
from pynas.compress.products import attention_of
from pynas.compress.refit import Refit, Refitter, can_refit, importance
from pynas.compress.units import Unit
from pynas.compress.widths import Hidden, find_hidden, keep_hidden, spread
from pynas.copies import copy_module
from pynas.visits import trace

# Hidden channels that stay are a multiple of this, where there are as many.
_MULTIPLE = 8


@dataclass(frozen=True)
class Cut:
    """Sizes of a smaller unit: shares of its hidden channels and heads that stay, side of its kernels (0: as they are)."""

    width: float = 1.0
    heads: float = 1.0
    kernel: int = 0
    left_out: bool = False

    def __str__(self) -> str:
        parts = [f"width {self.width:.0%}"] * (self.width < 1) + [f"heads {self.heads:.0%}"] * (self.heads < 1)
        parts += [f"kernel {self.kernel}"] * bool(self.kernel)
        return "left out" if self.left_out else ", ".join(parts) or "as it is"


@dataclass
class Parts:
    """Parts of a unit that can be cut.

    kernels: names of depthwise convolutions with sides of 5 and more. reasons: why others cannot. original: the unit, with
    attention that calls its layers as modules. order: tick at which each submodule of that runs.
    """

    unit: Unit
    hidden: list[Hidden]
    heads: list[Heads]
    kernels: list[str]
    reasons: list[str]
    original: nn.Module = field(repr=False)
    order: Mapping[str, int] = field(repr=False)

    @classmethod
    def of(cls, unit: Unit) -> Parts:
        """Find the parts of a unit; copies of it run on the example."""
        heads, reasons = find_heads(unit.module)
        modules = {*(visit.name for visit in attention_of(unit)), *(each.module for each in heads)}
        held = {
            name for module in modules for name, _ in unit.module.get_submodule(module).named_modules(prefix=module)
        }
        hidden, more = find_hidden(unit, held | {layer for each in heads for layer in each.layers})
        original = with_layers(unit.module, heads)
        order = {visit.name: visit.begin for visit in trace(original, unit.call.mapped(torch.clone))[0]}
        kernels = find_kernels(unit)
        reasons += more
        if not (hidden or heads or kernels):
            reasons.append("no channels inside that neither come from its input nor go to its output")
        return cls(unit, hidden, heads, kernels, reasons, original, order)

    def cuts(self, widths: Sequence[float], heads: Sequence[float], kernels: Sequence[int], drop: bool) -> list[Cut]:
        """Return the candidates of the unit, the unit as it is first; those of equal sizes count once."""
        less_width = [width for width in widths if width < 1 and self.hidden]
        less_heads = [share for share in heads if share < 1 and self.heads]
        sides = [side for side in kernels if self.kernels]
        by_size: dict[Any, Cut] = {}
        for width, share, kernel in itertools.product([1.0, *less_width], [1.0, *less_heads], [0, *sides]):
            cut = Cut(width, share, kernel)
            by_size.setdefault(tuple(self.sizes(cut).items()), cut)
        return [*by_size.values(), *([Cut(left_out=True)] if drop and self.unit.residual else [])]

    def sizes(self, cut: Cut) -> dict[str, int]:
        """Return the number of channels of each root layer, of groups of heads of each attention, and kernel sides, that stay."""
        channels = {f"hidden {h.root}": _channels(h, cut.width) for h in self.hidden}
        heads = {f"heads {h.module}": max(1, round(h.groups * cut.heads)) for h in self.heads}
        kernels: dict[str, int] = {}
        for name in self.kernels:
            side = self.unit.module.get_parameter(f"{name}.weight").shape[-1]
            kernels[f"kernel {name}"] = min(side, cut.kernel or side)
        return {**channels, **heads, **kernels}

    def cut(
        self,
        sizes: Mapping[str, int],
        ranks: Ranks | None = None,
        kernels: Mapping[str, Tensor] | None = None,
        weights: Mapping[str, Tensor] | None = None,
    ) -> nn.Module:
        """Return a copy of the unit of these sizes.

        ranks: which channels and heads stay, the first ones without. kernels: tensors of a unit with all channels and heads, and
        kernels of these sizes, that take the place of the unit's own. weights: of the whole unit, in place of its own.
        """
        ranks = ranks or Ranks.first(self)
        module = copy_module(self.unit.module, where="compress").eval()
        module.load_state_dict(weights or {}, strict=False)
        for name in self.kernels:
            crop_kernel(module.get_submodule(name), sizes[f"kernel {name}"])
        module.load_state_dict(kernels or {}, strict=False)
        keep_hidden(module, self.unit, [(h, ranks.channels(h, sizes[f"hidden {h.root}"])) for h in self.hidden])
        for h in self.heads:
            keep_heads(module, h, ranks.groups(h, sizes[f"heads {h.module}"]))
        return module

    def refits(self, sizes: Mapping[str, int], ranks: Ranks) -> list[Refit]:
        """Return the layers that read less in a copy of these sizes, in the order in which they run."""
        full, found = self.sizes(Cut()), dict[str, Refit]()
        for hidden in self.hidden:
            if sizes[f"hidden {hidden.root}"] < full[f"hidden {hidden.root}"]:
                kept = ranks.channels(hidden, sizes[f"hidden {hidden.root}"])
                found |= {
                    reader.name: Refit(reader.name, reader.columns[kept].flatten().tolist())
                    for reader in hidden.readers
                }
        for each in self.heads:
            if sizes[f"heads {each.module}"] < full[f"heads {each.module}"]:
                kept = ranks.groups(each, sizes[f"heads {each.module}"])
                found[each.reader] = Refit(each.reader, each.columns()[kept].flatten().tolist())
        found |= {name: Refit(name) for name in self.kernels if sizes[f"kernel {name}"] < full[f"kernel {name}"]}
        for hidden in self.hidden:
            for name in found.keys() & hidden.makers:
                found[name] = replace(found[name], outputs=ranks.channels(hidden, sizes[f"hidden {hidden.root}"]))
        able = [refit for name, refit in found.items() if can_refit(self.unit.module.get_submodule(name))]
        return sorted(able, key=lambda refit: self.order[refit.name])


class Shrinker:
    """Makes smaller copies of one unit, their reading layers solved anew on calibration calls of the unit.

    Hidden channels, heads and kernels are refitted each alone, on the unit's own inputs, and once for all candidates that have
    them in common.

    calls: without any, the first channels and heads stay, and nothing is solved. weights: of the unit, that the copies are cut
    from in place of its own.
    """

    def __init__(
        self,
        parts: Parts,
        calls: Sequence[Call],
        ranks: Ranks | None = None,
        weights: Mapping[str, Tensor] | None = None,
    ) -> None:
        self._weights, self.ranks = weights, ranks or (Ranks.of(parts, calls) if calls else Ranks.first(parts))
        self._parts, self._calls = parts, calls
        self._refitter = Refitter(parts.original, calls)
        self._made = {name: [parameter.data] for name, parameter in parts.unit.module.named_parameters()}
        self._solved: dict[tuple[tuple[str, int], ...], dict[str, Tensor]] = {}

    def make(self, cut: Cut, share: bool = False) -> nn.Module | None:
        """Return the unit of a cut; None where it is left out.

        share: weights that are equal to the unit's own, or to those of a copy made before, are the same memory.
        """
        if cut.left_out or cut == Cut():
            return None if cut.left_out else self._parts.unit.module
        sizes = self._parts.sizes(cut)
        # Kernels are solved for all channels, of which the cut takes some; readers for those that stay.
        module = self._parts.cut(sizes, self.ranks, self._solution(sizes, "kernel"), self._weights)
        for kind in ("hidden", "heads"):
            module.load_state_dict(self._solution(sizes, kind), strict=False)
        for name, parameter in module.named_parameters() if share else ():
            known = self._made.setdefault(name, [])
            equal = next((x for x in known if x.shape == parameter.shape and torch.equal(x, parameter)), None)
            if equal is None:
                known.append(parameter.data)
            else:
                parameter.data = equal
        return module

    def _solution(self, every: Mapping[str, int], kind: str) -> dict[str, Tensor]:
        """Solved tensors, by their names in the unit, of a copy of which one kind of parts is cut to its sizes."""
        full = self._parts.sizes(Cut())
        sizes = {name: size if name.startswith(f"{kind} ") else full[name] for name, size in every.items()}
        if not self._calls or sizes == full:
            return {}
        key = tuple(sizes.items())
        if key not in self._solved:
            module = self._parts.cut(sizes, self.ranks, weights=self._weights)
            before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
            self._refitter.refit(module, self._parts.refits(sizes, self.ranks))
            self._solved[key] = {
                name: tensor for name, tensor in module.state_dict().items() if not torch.equal(tensor, before[name])
            }
        return self._solved[key]


@dataclass(frozen=True)
class Ranks:
    """Channels and groups of heads of a unit, the most important first, by the name of their root layer or attention."""

    positions: Mapping[str, Sequence[int]]

    @classmethod
    def first(cls, parts: Parts) -> Ranks:
        """Rank by number."""
        positions = {h.root: range(h.channels // h.parts) for h in parts.hidden}
        return cls({**positions, **{h.module: range(h.groups) for h in parts.heads}})

    @classmethod
    def of(cls, parts: Parts, calls: Sequence[Call]) -> Ranks:
        """Rank by what channels and heads add to the layers that read them, on calls of the unit (`refit.importance`)."""
        module, positions = parts.original, dict[str, Sequence[int]]()
        for hidden in parts.hidden:
            values = importance(module, [(reader.name, reader.columns) for reader in hidden.readers], calls)
            positions[hidden.root] = _descending(values.square().view(hidden.parts, -1).sum(0))
        for h in parts.heads:
            positions[h.module] = _descending(importance(module, [(h.reader, h.columns())], calls))
        return cls(positions)

    def channels(self, hidden: Hidden, count: int) -> list[int]:
        """Return the channels that stay, in ascending order."""
        return list(spread(self.positions[hidden.root][: count // hidden.parts], hidden))

    def groups(self, heads: Heads, count: int) -> list[int]:
        """Return the groups of heads that stay, in ascending order."""
        return sorted(self.positions[heads.module][:count])


def _channels(hidden: Hidden, width: float) -> int:
    size = hidden.channels // hidden.parts
    multiple = _MULTIPLE if hidden.parts == 1 and hidden.channels >= 2 * _MULTIPLE else 1
    return (
        hidden.parts * min(size, max(multiple, round(size * width / multiple) * multiple))
        if width < 1
        else hidden.channels
    )


def _descending(values: Tensor) -> list[int]:
    return torch.argsort(values, descending=True, stable=True).tolist()
