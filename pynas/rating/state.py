"""State of modules outside of operators: their attributes, and the generators of random numbers."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import BuiltinFunctionType, FunctionType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pynas.rating.norms import PathContext, PathNorm
from pynas.rating.plain_values import PLAIN, USUAL

# Attributes inside attributes are followed this far.
_DEPTH = 4

Facts = dict[tuple[Any, ...], Any]


def facts(parts: Iterable[nn.Module]) -> Facts:
    """Attributes of a module's parts: values of plain ones, identities of tensors (which are kept) and other objects."""
    found: Facts = {}
    for part in parts:
        for attribute, value in vars(part).items():
            if type(value) in PLAIN:
                found[id(part), attribute] = value
            elif attribute != "_modules" and (attribute not in USUAL or value):
                _note(found, (id(part), attribute), value, _DEPTH)
    return found


def watched(parts: Iterable[nn.Module]) -> list[nn.Module]:
    """Parts with attributes that can change without being set: lists, dictionaries and other objects."""
    return [part for part in parts if any(_may_change(name, value) for name, value in vars(part).items())]


def _may_change(name: str, value: Any) -> bool:
    if name in USUAL or type(value) in PLAIN or isinstance(value, (Tensor, nn.Module, PathNorm, PathContext, type)):
        return False
    if type(value) is tuple:
        return any(_may_change("", inner) for inner in value)
    return not isinstance(value, (FunctionType, BuiltinFunctionType))


def differing(before: Facts, after: Facts) -> list[tuple[Any, ...]]:
    """Keys of the attributes that differ: identity of the part, name of the attribute, and the way inside it."""
    one_sided = list(before.keys() ^ after.keys())
    both = ((key, value, after[key]) for key, value in before.items() if key in after)
    return one_sided + [key for key, old, new in both if old is not new and old != new]


def changed(before: Facts, after: Facts) -> bool:
    """Whether attributes differ, other than by another tensor in the place of a tensor."""
    return before.keys() != after.keys() or any(_differs(before[key], after[key]) for key in before)


def _differs(a: Any, b: Any) -> bool:
    if isinstance(a, _Tensor) and isinstance(b, _Tensor) and not isinstance(b.tensor, nn.Parameter):
        return a.tensor is b.tensor and a.memory != b.memory
    return a is not b and bool(a != b)


@dataclass(eq=False, slots=True)
class _Tensor:
    tensor: Tensor
    memory: int

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Tensor) and self.tensor is other.tensor and self.memory == other.memory


def _note(found: Facts, key: tuple[Any, ...], value: Any, depth: int) -> None:
    """Add what an attribute holds, and what is inside it."""
    kind = type(value)
    if kind in PLAIN or (kind is tuple and all(type(inner) in PLAIN for inner in value)):
        found[key] = value
    elif isinstance(value, Tensor):
        found[key] = _Tensor(value, value.data_ptr() if value.layout == torch.strided else 0)
    elif isinstance(value, _CONTAINERS):
        found[key] = id(value) if depth == 0 else kind
        for name, part in _items(value) if depth else ():
            _note(found, (*key, name), part, depth - 1)
    elif isinstance(value, torch.Generator):
        found[key] = value.get_state().numpy().tobytes()
    elif isinstance(value, (np.ndarray, np.generic)):
        found[key] = value.tobytes()
    elif isinstance(value, (random.Random, np.random.RandomState, np.random.Generator)):
        found[key] = repr(_state_of(value))
    else:
        entire = depth == 0 or isinstance(value, (PathNorm, PathContext, nn.Module, type))
        found[key] = id(value) if entire or callable(value) else kind
        for name, part in () if entire else list(getattr(value, "__dict__", {}).items()):
            _note(found, (*key, name), part, depth - 1)


_CONTAINERS = (dict, list, tuple, deque, set, frozenset)


def _items(value: Any) -> list[tuple[Any, Any]]:
    if isinstance(value, dict):
        return [(name if type(name) is str else (repr(name),), part) for name, part in value.items()]
    if isinstance(value, (list, tuple, deque)):
        return list(enumerate(value))
    return [(part, None) for part in map(repr, value)]


def _state_of(generator: Any) -> Any:
    if isinstance(generator, random.Random):
        return generator.getstate()
    if isinstance(generator, np.random.RandomState):
        return [part.tobytes() if isinstance(part, np.ndarray) else part for part in generator.get_state()]
    return generator.bit_generator.state


class RandomState:
    """States of the process's random numbers: torch on the CPU and on one device, NumPy, and Python."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._torch = device, torch.get_rng_state()
        self._cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
        self._numpy, self._python = np.random.get_state(), random.getstate()  # noqa: NPY002

    def restore(self) -> None:
        """Set all of them back."""
        torch.set_rng_state(self._torch)
        if self._cuda is not None:
            torch.cuda.set_rng_state(self._cuda, self._device)
        np.random.set_state(self._numpy)  # noqa: NPY002
        random.setstate(self._python)

    def moved(self) -> bool:
        """Whether any has drawn numbers since."""
        now = RandomState(self._device)
        same = torch.equal(self._torch, now._torch) and self._python == now._python
        same = same and (self._cuda is None or torch.equal(self._cuda, now._cuda))  # type: ignore[arg-type]
        return not (same and repr(self._numpy[2:]) == repr(now._numpy[2:]) and (self._numpy[1] == now._numpy[1]).all())  # type: ignore


def sets_attributes(module: nn.Module) -> bool:
    """Whether TorchScript code of a module writes attributes, which Python cannot see."""
    scripts: list[Callable[[], Any]] = [part for part in module.modules() if isinstance(part, torch.jit.ScriptModule)]
    return any("prim::SetAttr" in str(part.inlined_graph) for part in scripts)  # type: ignore[attr-defined]
