"""Copies of the layers to run, one per thread, in which candidates that hold one module share its copy."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, fx, nn

from pynas.rating.copies import private_copy
from pynas.rating.function_calls import statistics_of
from pynas.rating.places import memory
from pynas.rating.state import Facts, differing, watched

# Candidate c of layer l, as (l, c).
Seat = tuple[int, int]
# An attribute of part number n of a module, in the order of `modules()`, as (n, name).
Attribute = tuple[int, str]

_MISSING = object()
_CONTAINERS = (dict, OrderedDict, list, set, deque)


@dataclass(frozen=True)
class Contents:
    """Parts of a copy, those `watched`, its buffers, the memory of its weights, and `statistics_of` it.

    scripted: whether a part is TorchScript or a graph, whose calls of functions Python does not see.
    """

    parts: list[nn.Module]
    watched: list[nn.Module]
    buffers: list[Tensor]
    weights: set[int]
    statistics: dict[int, int]
    scripted: bool

    @classmethod
    def of(cls, run: nn.Module, template: nn.Module, known: dict[int, Contents]) -> Contents:
        """Contents of a copy of `template`; known: those of modules that other candidates hold too."""
        if id(run) in known:
            return known[id(run)]
        inside = [*run.children(), *run.parameters(recurse=False), *run.buffers(recurse=False)]
        if len(inside) == 1 and isinstance(inside[0], nn.Module):  # as an adapter
            inner = cls.of(inside[0], next(template.children()), known)
            parts, changeable = [run, *inner.parts], [*watched([run]), *inner.watched]
            known[id(run)] = replace(inner, parts=parts, watched=changeable)
        else:
            parts, weights = list(run.modules()), {memory(x) for x in run.parameters()}
            scripted = any(isinstance(part, (torch.jit.ScriptModule, fx.GraphModule)) for part in parts)
            statistics = statistics_of(template, run)
            known[id(run)] = cls(parts, watched(parts), list(run.buffers()), weights, statistics, scripted)
        return known[id(run)]


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
            copied.restore(seat)
        return module

    def contents(self, seat: Seat) -> Contents:
        """Contents of this thread's copy of a candidate."""
        return self._copy().contents(seat)

    def note(self, seat: Seat, attributes: Iterable[Attribute], leaves: bool = False) -> None:
        """Remember that a candidate changes these attributes of its module whenever it runs.

        leaves: keep the values that it left, for `leave`.
        """
        copied = self._copy()
        for number, name in attributes:
            part = copied.parts(seat)[number]
            copied.changed[id(part), name] = part, seat
            if leaves:
                copied.left.setdefault(seat, {})[number, name] = _kept(vars(part).get(name))

    def put_back(self, seat: Seat) -> None:
        """Put back what a candidate itself changed."""
        self._copy().restore(seat, own=True)

    def kept(self, seat: Seat, changes: Iterable[Attribute]) -> bool:
        """Whether attributes have the values that a candidate left at first, or other tensors in the place of tensors."""
        copied = self._copy()
        parts, left = copied.parts(seat), copied.left.get(seat, {})
        return all(key in left and _same(vars(parts[key[0]]).get(key[1]), left[key], tensors=True) for key in changes)

    def leave(self, seat: Seat) -> bool:
        """Set the attributes of a candidate as it left them at first; False where it did not run on this thread's copy."""
        copied = self._copy()
        for (number, name), value in copied.left.get(seat, {}).items():
            vars(copied.parts(seat)[number])[name] = _kept(value)
        return seat in copied.left

    def changes(
        self, seat: Seat, before: Facts, after: Facts, written: Iterable[tuple[int, str]] = ()
    ) -> set[Attribute] | None:
        """Attributes that a run changed; None where some cannot be put back, and this thread then gets another copy.

        before, after: facts of parts that hold more than plain values. written: attributes that were set, as `attributes_set`
        collects them.
        """
        copied, found = self._copy(), set[Attribute]()
        numbers = copied.numbers(seat)
        for identity, name, *inside in differing(before, after):
            old = copied.before.get(identity, {}).get(name)
            if identity not in numbers or len(inside) > 1 or (inside and not isinstance(old, _CONTAINERS)):
                self.forget()
                return None
            found.add((numbers[identity], name))
        parts = copied.parts(seat)
        for identity, name in written:
            if identity in numbers:
                number = numbers[identity]
                now, old = vars(parts[number]), copied.before[identity]
                # A parameter, a buffer or a module is in one of these dictionaries.
                names = (name,) if name in now or name in old else ("_parameters", "_buffers", "_modules")
                found |= {
                    (number, name) for name in names if not _same(now.get(name, _MISSING), old.get(name, _MISSING))
                }
        return found

    def left_tensors(self, seat: Seat, attributes: Iterable[Attribute]) -> Iterator[Tensor]:
        """Yield the tensors that a run left in attributes, where others or none were before."""
        copied = self._copy()
        for number, name in attributes:
            part = copied.parts(seat)[number]
            old = set(map(id, _tensors(copied.before[id(part)].get(name))))
            yield from (x for x in _tensors(vars(part).get(name)) if id(x) not in old)

    def forget(self) -> None:
        """Give this thread another copy at its next run."""
        if hasattr(self._local, "copy"):
            del self._local.copy

    def _copy(self) -> _Copy:
        if not hasattr(self._local, "copy"):
            self._local.copy = _Copy(private_copy(self._layers), self._layers)
        return self._local.copy


@dataclass
class _Copy:
    """changed: parts by their identity and the attribute's name, with the candidate that changed it last.

    left: values of changed attributes after a candidate's first run.
    """

    layers: Sequence[Sequence[nn.Module]]
    templates: Sequence[Sequence[nn.Module]]
    changed: dict[tuple[int, str], tuple[nn.Module, Seat]] = field(default_factory=dict)
    left: dict[Seat, dict[Attribute, Any]] = field(default_factory=dict)
    _contents: dict[int, Contents] = field(default_factory=dict)
    _numbers: dict[Seat, dict[int, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _ = self.before  # before anything runs

    @cached_property
    def before(self) -> dict[int, dict[str, Any]]:
        """Attributes of every part when nothing had run, by the part's identity."""
        seen = set[nn.Module]()
        parts = [part for layer in self.layers for module in layer for _, part in module.named_modules(seen)]
        return {id(part): {name: _noted(value) for name, value in vars(part).items()} for part in parts}

    def parts(self, seat: Seat) -> list[nn.Module]:
        """Parts of a candidate."""
        return self.contents(seat).parts

    def contents(self, seat: Seat) -> Contents:
        """Contents of a candidate."""
        layer, candidate = seat
        return Contents.of(self.layers[layer][candidate], self.templates[layer][candidate], self._contents)

    def numbers(self, seat: Seat) -> dict[int, int]:
        """Numbers of a candidate's parts by their identities."""
        if seat not in self._numbers:
            self._numbers[seat] = {id(part): number for number, part in enumerate(self.parts(seat))}
        return self._numbers[seat]

    def restore(self, seat: Seat, own: bool = False) -> None:
        """Put back what other candidates, or it itself, changed in a candidate's module."""
        parts = self.numbers(seat)
        for key, (part, changer) in list(self.changed.items()):
            if (changer == seat) != own or key[0] not in parts:
                continue
            name, values = key[1], self.before[key[0]]
            if name in values:
                vars(part)[name] = _kept(values[name])
            else:
                vars(part).pop(name, None)
            del self.changed[key]


def _same(a: Any, b: Any, tensors: bool = False) -> bool:
    """Whether two values of an attribute are equal; tensors: any two tensors are."""
    if a is b:
        return True
    if type(a) is not type(b):
        return False
    if isinstance(a, Tensor):
        return tensors
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(value, b[name], tensors) for name, value in a.items())
    if isinstance(a, (list, tuple, deque)):
        return len(a) == len(b) and all(_same(x, y, tensors) for x, y in zip(a, b))
    return bool(a == b)


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, _CONTAINERS):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _tensors(inner)


# Most containers of modules are empty.
_EMPTY: dict[type, Any] = {kind: kind() for kind in _CONTAINERS}


def _noted(value: Any) -> Any:
    """A value to compare with later; a container is copied, an empty one only once for all."""
    kind = type(value)
    return _EMPTY[kind] if kind in _EMPTY and not value else _kept(value)


def _kept(value: Any) -> Any:
    return value.copy() if type(value) in _CONTAINERS else value
