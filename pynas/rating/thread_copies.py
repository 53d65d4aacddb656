"""Copies of the layers to run, one per thread, in which candidates that hold one module share its copy."""

from __future__ import annotations

import copy
import threading
from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import nn

from pynas.rating.copies import private_copy
from pynas.rating.state import Facts, differing

# Candidate c of layer l, as (l, c).
Seat = tuple[int, int]
# An attribute of part number n of a module, in the order of `modules()`, as (n, name).
Attribute = tuple[int, str]

_CONTAINERS = (dict, OrderedDict, list, set, deque)


class ThreadCopies:
    """Gives each thread a copy of the layers; a candidate finds all attributes as they were before any other candidate ran.

    layers: not run themselves.
    """

    def __init__(self, layers: Sequence[Sequence[nn.Module]]) -> None:
        self._layers, self._local = layers, threading.local()

    def module(self, seat: Seat) -> nn.Module:
        """Return this thread's copy of a candidate; attributes that other candidates changed are as they were."""
        copied = self._copy()
        layer, candidate = seat
        module = copied.layers[layer][candidate]
        if copied.changed:
            copied.restore(seat, module)
        return module

    def note(self, seat: Seat, attributes: Iterable[Attribute]) -> None:
        """Remember that a candidate changes these attributes of its module whenever it runs."""
        copied = self._copy()
        for number, name in attributes:
            part = copied.parts(seat)[number]
            copied.changed[id(part), name] = part, seat

    def changes(self, seat: Seat, before: Facts, after: Facts) -> set[Attribute] | None:
        """Attributes that differ; None where some cannot be put back, and this thread then gets another copy."""
        copied, found = self._copy(), set[Attribute]()
        numbers = {id(part): number for number, part in enumerate(copied.parts(seat))}
        for identity, name, *inside in differing(before, after):
            old = copied.before.get(identity, {}).get(name)
            if identity not in numbers or len(inside) > 1 or (inside and not isinstance(old, _CONTAINERS)):
                del self._local.copy
                return None
            found.add((numbers[identity], name))
        return found

    def _copy(self) -> _Copy:
        if not hasattr(self._local, "copy"):
            self._local.copy = _Copy(private_copy(self._layers))
        return self._local.copy


@dataclass
class _Copy:
    """changed: parts by their identity and the attribute's name, with the candidate that changed it last."""

    layers: Sequence[Sequence[nn.Module]]
    changed: dict[tuple[int, str], tuple[nn.Module, Seat]] = field(default_factory=dict)
    _parts: dict[Seat, list[nn.Module]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _ = self.before  # before anything runs

    @cached_property
    def before(self) -> dict[int, dict[str, Any]]:
        """Attributes of every part when nothing had run, by the part's identity."""
        parts = {id(part): part for layer in self.layers for module in layer for part in module.modules()}
        return {key: {name: _kept(value) for name, value in vars(part).items()} for key, part in parts.items()}

    def parts(self, seat: Seat) -> list[nn.Module]:
        """Parts of a candidate."""
        if seat not in self._parts:
            self._parts[seat] = list(self.layers[seat[0]][seat[1]].modules())
        return self._parts[seat]

    def restore(self, seat: Seat, module: nn.Module) -> None:
        """Put back what other candidates changed in a candidate's module."""
        own = set(map(id, self.parts(seat)))
        for key, (part, changer) in list(self.changed.items()):
            if changer == seat or key[0] not in own:
                continue
            name, values = key[1], self.before[key[0]]
            if name in values:
                vars(part)[name] = _kept(values[name])
            else:
                vars(part).pop(name, None)
            del self.changed[key]


def _kept(value: Any) -> Any:
    return copy.copy(value) if type(value) in _CONTAINERS else value
