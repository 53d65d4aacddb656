"""Private copies of the user's modules: structure and buffers are copied, weights are shared.

The engine changes modules (evaluation mode, batch norm per path, another dtype). It changes this copy, so the user's own
modules keep their flags, hooks and statistics, even after an error.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from types import BuiltinFunctionType, FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pynas.copies import copy_module, flat
from pynas.errors import InputError
from pynas.rating.norms import PathNorm
from pynas.rating.plain_values import PLAIN, USUAL

Layers = list[list[nn.Module]]


def private_copy(
    modules: Any, dtype: torch.dtype | None = None, weights: bool = False, known: dict[int, Any] | None = None
) -> Any:
    """Copy nested lists of modules; a module that appears twice is copied once, a compiled one without its compiler.

    Weights keep their storage unless `dtype` asks for another floating type, or `weights` for copies of them; batch norm
    keeps its own type (its sums are taken in float32 anyway). known: copies of parts by the identity of the part, which are
    taken for them; further ones are added.

    Raises:
        InputError: a module that Python cannot copy.
    """
    known = {} if known is None else known
    seen = set[nn.Module]()
    with torch.inference_mode(False):
        for module in flat(modules):
            parts = [part for _, part in module.named_modules(seen) if id(part) not in known]
            for part in parts:
                kind = None if isinstance(part, _BatchNorm) else dtype
                known |= {id(tensor): _share(tensor, kind, weights) for tensor in _tensors(part)}
            for part in reversed(parts):
                _copy_plain(part, known)
        whole = _copied(modules, known)
        return whole if whole is not None else copy_module(modules, known, "rate", plain=True)


def _copied(modules: Any, known: dict[int, Any]) -> Any:
    """Nested lists of the copies in `known`; None where one is missing."""
    if isinstance(modules, nn.Module):
        return known.get(id(modules))
    copies = [_copied(inner, known) for inner in modules]
    return None if any(copied is None for copied in copies) else copies


def _copy_plain(part: nn.Module, known: dict[int, Any]) -> None:
    """Copy a module whose attributes are plain values, functions, copied tensors and modules, and its `PathNorm`, into `known`.

    It is what `copy.deepcopy` makes of it, in a tenth of the time.
    """
    kind = type(part)
    own = any(getattr(kind, name, None) is not getattr(nn.Module, name, None) for name in _COPY_METHODS)
    if own or not kind.__setstate__.__module__.startswith("torch."):
        return
    copied, values = kind.__new__(kind), dict[str, Any]()
    for name, value in vars(part).items():
        if name in ("_parameters", "_buffers", "_modules") and type(value) in (dict, OrderedDict):
            if not all(inner is None or id(inner) in known for inner in value.values()):
                return
            values[name] = type(value)((key, known.get(id(inner))) for key, inner in value.items())
        elif name in USUAL and type(value) in (dict, OrderedDict, set) and not value:
            values[name] = type(value)()
        elif isinstance(value, PathNorm):
            values[name] = value.of_copy(copied)  # type: ignore[arg-type]
        else:
            try:
                values[name] = _copy_value(value, known)
            except _NotPlain:
                return
    vars(copied).update(values)
    known[id(part)] = copied


class _NotPlain(Exception):
    """A value that only `copy.deepcopy` can copy."""


def _copy_value(value: Any, known: dict[int, Any], depth: int = 8) -> Any:
    """Copy plain values and containers of them; a container that two modules hold is copied once."""
    kind = type(value)
    if kind in _ATOMS:
        return value
    if id(value) in known:
        return known[id(value)]
    if depth and kind in (list, set, tuple):
        made = kind(_copy_value(inner, known, depth - 1) for inner in value)
    elif depth and kind in (dict, OrderedDict):
        made = kind((_copy_value(key, known, 0), _copy_value(inner, known, depth - 1)) for key, inner in value.items())
    else:
        raise _NotPlain
    known[id(value)] = made
    return made


_ATOMS = {*PLAIN, FunctionType, BuiltinFunctionType}
# Methods by which a class may say how it is copied.
_COPY_METHODS = ("__deepcopy__", "__copy__", "__reduce_ex__", "__reduce__", "__getstate__", "__getnewargs__",
                 "__getnewargs_ex__")  # fmt: skip


def name_of(module: nn.Module) -> str:
    """Class of a module for messages; of a wrapper, that of what it wraps."""
    return str(getattr(module, "original_name", type(module).__name__))


def check_layers(layers: Sequence[Sequence[nn.Module]]) -> Layers:
    """Return the layers as lists of modules, none of them empty.

    Raises:
        InputError: a layer that is empty or holds anything but modules.
    """
    if not all(isinstance(layer, Sequence) or hasattr(layer, "__iter__") for layer in layers):
        raise InputError(
            "[rate] expected layers, each a list of candidates, got a list of modules; one layer is [candidates]"
        )
    checked = [list(layer) for layer in layers]
    if not checked:
        raise InputError("[rate] expected at least one layer, got none")
    for index, layer in enumerate(checked):
        if not layer:
            raise InputError(f"[rate] expected at least one candidate in every layer, got none in layer {index}")
        for candidate in layer:
            if not isinstance(candidate, nn.Module):
                raise InputError(
                    f"[rate] expected candidates that are nn.Module, got {type(candidate).__name__} in layer {index}"
                )
    return checked


def _tensors(module: nn.Module) -> Iterable[Tensor]:
    yield from module.parameters(recurse=False)
    yield from module.buffers(recurse=False)


def _share(tensor: Tensor, dtype: torch.dtype | None, weights: bool) -> Tensor:
    shared = tensor.detach()
    if dtype is not None and shared.is_floating_point():
        shared = shared.to(dtype)
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(shared.clone() if weights else shared, requires_grad=False)
    return shared.clone()  # a module may write to its buffers
