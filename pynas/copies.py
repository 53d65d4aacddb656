"""Copies of modules, also of those that hold a tensor with a graph, as they do right after a training step."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pynas.errors import InputError

Modules = TypeVar("Modules")
_LOCKS = {type(threading.Lock()): threading.Lock, type(threading.RLock()): threading.RLock}


def copy_module(modules: Modules, memo: dict[int, Any] | None = None, where: str = "copy") -> Modules:
    """Copy a module, or nested lists and tuples of modules, as `copy.deepcopy` does, and cut its graphs.

    `copy.deepcopy` refuses a tensor that was computed with gradients: the weight of `torch.nn.utils.weight_norm` and
    `spectral_norm`, a kept attention map, an auxiliary loss, also inside lists and other objects. The copy holds its value
    without the graph; the original keeps its graph. A lock gets a fresh one.

    memo: copies to use, by the id of the original, as for `copy.deepcopy`. where: stage to name in an error.

    Raises:
        InputError: a module that holds anything that Python cannot copy; the module and its attribute are named.
    """
    memo = {} if memo is None else memo
    seen = set[nn.Module]()
    parts = [part for module in flat(modules) for _, part in module.named_modules(seen)]
    values = [value for part in parts for value in vars(part).values()]
    memo |= {id(value): _LOCKS[type(value)]() for value in values if type(value) in _LOCKS}
    known = dict(memo)
    try:
        with _Detaching():
            return copy.deepcopy(modules, memo)
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"[{where}] expected modules that copy.deepcopy can copy, got {_culprit(parts, known)} ({error}): "
            "remove it, or give its class a __deepcopy__"
        ) from error


def flat(modules: Any) -> Iterator[nn.Module]:
    """Yield the modules of nested lists and tuples."""
    if isinstance(modules, nn.Module):
        yield modules
    elif modules is not None:
        for item in modules:
            yield from flat(item)


class _Detaching(TorchFunctionMode):
    """Lets `copy.deepcopy` copy tensors with a graph, in this thread."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not Tensor.__deepcopy__:
            return func(*args, **(kwargs or {}))
        tensor, memo = args
        if id(tensor) in memo:
            return memo[id(tensor)]
        if tensor.grad_fn is None:
            return func(tensor, memo)
        memo[id(tensor)] = tensor.detach().clone()
        return memo[id(tensor)]


def _culprit(parts: Iterable[nn.Module], memo: dict[int, Any]) -> str:
    """Name the attribute that cannot be copied, and its module."""
    for part in parts:
        known = memo | {id(child): child for child in part.modules()}
        for name, value in vars(part).items():
            try:
                with _Detaching():
                    copy.deepcopy(value, dict(known))
            except Exception:
                return f"the attribute {name!r} of {type(part).__name__}"
    return "another one"
