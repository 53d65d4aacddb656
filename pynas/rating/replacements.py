"""Functions and methods of torch that are replaced while any rating runs."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any

import torch
from torch import nn

Call = Callable[[Any, Any, Any], Any]

# Sets to collect attributes of modules that are set; how many ratings run.
_collecting: list[set[tuple[int, str]]] = []
_ratings = 0
_lock = threading.Lock()
_thread = threading.local()


@contextlib.contextmanager
def replaced() -> Iterator[None]:
    """Let `attributes_set` and `called_by` work inside the `with` block."""
    global _ratings
    with _lock:
        _ratings += 1
        for (owner, name), function in _REPLACED.items() if _ratings == 1 else ():
            setattr(owner, name, function)
    try:
        yield
    finally:
        with _lock:
            _ratings -= 1
            for (owner, name), function in () if _ratings else _ORIGINALS.items():
                setattr(owner, name, function)


@contextlib.contextmanager
def attributes_set() -> Iterator[set[tuple[int, str]]]:
    """Collect the attributes of modules that any thread sets inside the `with` block: the module's identity, and the name."""
    found = set[tuple[int, str]]()
    _collecting.append(found)
    try:
        yield found
    finally:
        with _lock:
            _collecting[:] = [other for other in _collecting if other is not found]


@contextlib.contextmanager
def called_by(call: Call) -> Iterator[None]:
    """Let this thread call `torch.batch_norm` by `call(function, args, kwargs)` inside the `with` block.

    A `TorchFunctionMode` does as well, but sees every function of torch, and each then takes longer.
    """
    before = getattr(_thread, "call", None)
    _thread.call = call
    try:
        yield
    finally:
        _thread.call = before


def _noting(method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)
    def noted(self: nn.Module, name: str, *args: Any, **kwargs: Any) -> Any:
        for found in tuple(_collecting):
            found.add((id(self), name))
        return method(self, name, *args, **kwargs)

    return noted


def _calling(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def called(*args: Any, **kwargs: Any) -> Any:
        call = getattr(_thread, "call", None)
        return function(*args, **kwargs) if call is None else call(function, args, kwargs)

    return called


_SETTERS = ("__setattr__", "__delattr__", "register_buffer", "register_parameter", "add_module")
_ORIGINALS: dict[tuple[Any, str], Callable[..., Any]] = {
    **{(nn.Module, name): vars(nn.Module)[name] for name in _SETTERS},
    (torch, "batch_norm"): torch.batch_norm,  # which `F.batch_norm` calls
}
_REPLACED = {
    (owner, name): (_noting if owner is nn.Module else _calling)(function)
    for (owner, name), function in _ORIGINALS.items()
}
