"""Copies of modules, also of those that hold a tensor with a graph, as they do right after a training step."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.overrides import TorchFunctionMode

from pynas.errors import InputError

Modules = TypeVar("Modules")
_LOCKS = {type(threading.Lock()): threading.Lock, type(threading.RLock()): threading.RLock}


def copy_module(
    modules: Modules, memo: dict[int, Any] | None = None, where: str = "copy", plain: bool = False
) -> Modules:
    """Copy a module, or nested lists and tuples of modules, as `copy.deepcopy` does, and cut its graphs.

    `copy.deepcopy` refuses a tensor that was computed with gradients: the weight of `torch.nn.utils.weight_norm` and
    `spectral_norm`, a kept attention map, an auxiliary loss, also inside lists and other objects. The copy holds its value
    without the graph; the original keeps its graph. A lock gets a fresh one, a kept `grad_fn` becomes None. Tensors of
    `torch.inference_mode` become ordinary ones, which can be trained.

    memo: copies to use, by the id of the original, as for `copy.deepcopy`. where: stage to name in an error.
    plain: copy the module inside each wrapper, see `unwrapped`, in its place.

    Raises:
        InputError: a module that holds anything that Python cannot copy; the module and its attribute are named.
    """
    memo = {} if memo is None else memo
    seen = set[nn.Module]()
    parts = [part for module in flat(modules) for _, part in module.named_modules(seen)]
    values = [value for part in parts for value in vars(part).values()]
    memo |= {id(value): _LOCKS[type(value)]() for value in values if type(value) in _LOCKS}
    memo |= {id(value): None for value in values if isinstance(value, torch.autograd.graph.Node)}
    known = dict(memo)
    try:
        with torch.inference_mode(False), _CutGraphs():
            # The innermost wrappers first, so that the outer ones find their copies.
            for part in reversed(parts if plain else []):
                if unwrapped(part) is not part and id(part) not in memo:
                    memo[id(part)] = copy.deepcopy(unwrapped(part), memo)
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


def unwrapped(module: Any) -> Any:
    """Return the module inside `torch.compile`, `DistributedDataParallel` and `DataParallel`; any other object as it is."""
    while True:
        if isinstance(module, DataParallel | DistributedDataParallel):
            module = module.module
        elif isinstance(module, nn.Module) and "_orig_mod" in module._modules:
            module = module._modules["_orig_mod"]
        else:
            return module


class _CutGraphs(TorchFunctionMode):
    """Lets `copy.deepcopy` copy tensors with a graph, and those of any subclass, in this thread."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not Tensor.__deepcopy__:
            return func(*args, **(kwargs or {}))
        tensor, memo = args
        if id(tensor) in memo:
            return memo[id(tensor)]
        if tensor.grad_fn is None and (tensor.grad is None or tensor.grad.grad_fn is None):
            try:
                return func(tensor, memo)
            except RuntimeError:  # a subclass without a `new_empty` of its own
                pass
        memo[id(tensor)] = tensor.detach().clone().requires_grad_(tensor.grad_fn is None and tensor.requires_grad)
        return memo[id(tensor)]


def _culprit(parts: Iterable[nn.Module], memo: dict[int, Any]) -> str:
    """Name the attribute that cannot be copied, and its module."""
    for part in parts:
        known = memo | {id(child): child for child in part.modules()}
        for name, value in vars(part).items():
            try:
                with _CutGraphs():
                    copy.deepcopy(value, dict(known))
            except Exception:
                return f"the attribute {name!r} of {type(part).__name__}"
    return "another one"
