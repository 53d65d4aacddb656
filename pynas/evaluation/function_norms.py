"""Modules that call `F.batch_norm` on buffers of their own: batch norms in a plain loop, though not by their class."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from pynas.rating.function_calls import norm_arguments
from pynas.rating.places import memory


class FunctionNorms:
    """The modules among some that call `F.batch_norm` on buffers of their own, found by a run of copies on x."""

    def __init__(self, modules: Sequence[nn.Module], copies: Sequence[nn.Module], x: Tensor) -> None:
        with torch.no_grad(), contextlib.suppress(Exception), _Calls() as calls:
            for module in copies:
                x = module(x)
        pairs = [pair for two in zip(modules, copies) for pair in zip(*(module.modules() for module in two))]
        owners = {
            memory(buffer): (part, name)
            for part, copied in pairs
            for name, buffer in copied.named_buffers(recurse=False)
            if not isinstance(part, _BatchNorm)
        }
        found = [owners[storage] for storage in calls.storages & owners.keys()]
        self._parts = [part for part, _ in found]
        self._storages = {memory(part.get_buffer(name)) for part, name in found}

    def train(self, mode: bool) -> None:
        """Set the mode of these modules, and of no others."""
        for part in self._parts:
            part.training = mode

    def averaging(self, number: int) -> contextlib.AbstractContextManager[object]:
        """Average the statistics over batches, as torch's momentum=None does; number: of the batch that runs, from 0."""
        return _Calls(self._storages, 1 / (number + 1)) if self._parts else contextlib.nullcontext()


class _Calls(TorchFunctionMode):
    """Notes the statistics that `F.batch_norm` gets, and sets the momentum for some of them."""

    def __init__(self, averaged: Collection[int] = (), momentum: float = 0.0) -> None:
        super().__init__()
        self._averaged, self._momentum = averaged, momentum
        self.storages: set[int] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        call = norm_arguments(func, args, kwargs or {})
        if call is None or call["running_mean"] is None:
            return func(*args, **(kwargs or {}))
        storage = memory(call["running_mean"])
        self.storages.add(storage)
        return F.batch_norm(**{**call, "momentum": self._momentum} if storage in self._averaged else call)
