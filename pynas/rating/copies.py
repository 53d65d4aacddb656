"""Private copies of the user's modules: structure and buffers are copied, weights are shared.

The engine changes modules (evaluation mode, batch norm per path, another dtype). It changes this copy, so the user's own
modules keep their flags, hooks and statistics, even after an error.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pynas.copies import copy_module, flat
from pynas.errors import InputError

Layers = list[list[nn.Module]]


def private_copy(modules: Any, dtype: torch.dtype | None = None, weights: bool = False) -> Any:
    """Copy nested lists of modules; a module that appears twice is copied once, a compiled one without its compiler.

    Weights keep their storage unless `dtype` asks for another floating type, or `weights` for copies of them; batch norm
    keeps its own type (its sums are taken in float32 anyway).

    Raises:
        InputError: a module that Python cannot copy.
    """
    known: dict[int, Any] = {}
    with torch.inference_mode(False):
        for module in flat(modules):
            for part in module.modules():
                kind = None if isinstance(part, _BatchNorm) else dtype
                known |= {id(tensor): _share(tensor, kind, weights) for tensor in _tensors(part)}
            for part in reversed(list(module.modules())):
                compiled = dict(part.named_children()).get("_orig_mod")
                if compiled is not None:  # of torch.compile, which would compile for every stack and thread
                    known[id(part)] = copy_module(compiled, known, "rate")
        return copy_module(modules, known, "rate")


def check_layers(layers: Sequence[Sequence[nn.Module]]) -> Layers:
    """Return the layers as lists of modules, none of them empty.

    Raises:
        InputError: a layer that is empty or holds anything but modules.
    """
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
