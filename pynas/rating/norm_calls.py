"""Batch norm that a module calls as a function: elastic layers do so on slices of a norm's weights and statistics.

Calls are told apart by their number in a forward pass. Those that follow the mode of the module (training or evaluation) get
the statistics of each path, as the norms that are modules do; the others stay as they are.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from pynas.errors import InputError
from pynas.rating.copies import private_copy
from pynas.rating.norms import PathContext, PathNorm, normalise
from pynas.rating.state import RandomState

_ARGUMENTS = {
    F.batch_norm: ("x", "mean", "var", "weight", "bias", "training", "momentum", "eps"),
    torch.batch_norm: ("x", "weight", "bias", "mean", "var", "training", "momentum", "eps", "cudnn_enabled"),
}
_DEFAULTS: dict[str, Any] = {"weight": None, "bias": None, "training": False, "eps": 1e-5}


class NormCalls(TorchFunctionMode):
    """Counts the calls of batch norm inside the `with` block, and gives some of them the statistics of each path.

    mode: norm mode of the layer. numbers: calls to change, of `count` in a forward pass.

    flags: whether each call so far used the statistics of its batch. stored: numbers of the calls that had stored statistics
    too. storages: their memory.
    """

    def __init__(self, context: PathContext, mode: str, numbers: Collection[int] = (), count: int = 1) -> None:
        super().__init__()
        self._context, self.mode, self._numbers, self._count = context, mode, numbers, count
        self.flags: list[bool] = []
        self.stored: set[int] = set()
        self.storages: set[int] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        names = _ARGUMENTS.get(func) if callable(func) else None
        if names is None:
            return func(*args, **(kwargs or {}))
        call = {**_DEFAULTS, **dict(zip(names, args)), **(kwargs or {})}
        number = len(self.flags)
        self.flags.append(bool(call["training"]))
        if call["mean"] is not None:
            self.stored.add(number)
            self.storages.add(memory(call["mean"]))
        if number % self._count not in self._numbers:
            return func(*args, **(kwargs or {}))
        mean: Tensor = call["mean"]
        key = memory(mean), mean.storage_offset(), len(mean)
        return normalise(self._context, self.mode, key, call["x"], call["weight"], call["bias"], call["eps"])


def memory(x: Tensor) -> int:
    """Number of a tensor's memory; slices of one tensor share it."""
    return x.untyped_storage()._cdata


def following(
    module: nn.Module, run: nn.Module, seen: NormCalls, streams: Sequence[Tensor]
) -> tuple[frozenset[int], int]:
    """Find the calls of batch norm that follow the mode, by a run in training mode on a copy.

    module: a private copy in evaluation mode. run: the copy that ran. seen: its calls, for all streams in turn.

    Returns the numbers of these calls, and how many calls of batch norm a forward pass has.

    Raises:
        InputError: a batch norm that is to be re-estimated, with a forward of its own that does not call `F.batch_norm`.
    """
    if seen.mode == "recalibrate":
        _check_seen(run, seen.storages)
    count = len(seen.flags) // len(streams)
    stored = {number % count for number in seen.stored}
    if not stored or count * len(streams) != len(seen.flags):
        return frozenset(), 1
    follow = {number for number in stored if seen.flags[number]}
    if follow < stored:
        copied, drawn = private_copy(module, weights=True).train(), RandomState(streams[0].device)
        training = NormCalls(PathContext(), "running")
        with contextlib.suppress(Exception), training:
            copied(streams[0].clone())
        drawn.restore()
        if len(training.flags) == count:
            follow |= {number for number in stored if training.flags[number]}
    return frozenset(follow), count


def own_forwards(module: nn.Module) -> dict[str, _BatchNorm]:
    """Batch norms with stored statistics and a forward of their own, by name."""
    return {
        name: part
        for name, part in module.named_modules()
        if isinstance(part, _BatchNorm)
        and part.running_mean is not None
        and not isinstance(part.__dict__.get("forward"), PathNorm)
    }


def _check_seen(module: nn.Module, storages: Collection[int]) -> None:
    for name, part in own_forwards(module).items():
        if memory(part.running_mean) not in storages:  # type: ignore[arg-type]
            raise InputError(
                "[rate] expected a batch norm with a per-path form for norm='recalibrate', "
                f"got {type(part).__name__} at {name or 'the top'} of {type(module).__name__}"
            )
