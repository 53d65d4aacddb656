"""Calls of torch's functions while a module runs: of batch norm, of writes to weights, and of reads by Python.

Elastic layers call `F.batch_norm` on slices of a norm's weights and statistics. Calls that follow the mode of the module (training
or evaluation) get the statistics of each path, as the norms that are modules do; the others stay as they are.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from pynas.errors import InputError
from pynas.rating.copies import name_of, private_copy
from pynas.rating.norms import PathContext, PathNorm, normalise
from pynas.rating.places import Rows, mark, memory, place_of, tensors_in
from pynas.rating.replacements import called_by
from pynas.rating.sides import Arguments, cloned, few
from pynas.rating.state import RandomState

_NAMES = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")
_ARGUMENTS = {
    F.batch_norm: _NAMES,
    torch.batch_norm: ("input", "weight", "bias", "running_mean", "running_var", "training", "momentum", "eps"),
}
_DEFAULTS: dict[str, Any] = {"weight": None, "bias": None, "training": False, "momentum": 0.1, "eps": 1e-5}
# Functions that ask for sizes, types and places, by name; attributes, which may be tensors as well, by `__get__`.
_ASKS = {"__get__", "__len__", "size", "dim", "ndimension", "numel", "nelement", "stride", "is_contiguous", "element_size",
         "storage_offset", "is_floating_point"}  # fmt: skip
_READS = {Tensor.item, Tensor.tolist, Tensor.numpy, Tensor.__array__, Tensor.__bool__, Tensor.__int__, Tensor.__float__,
          Tensor.__index__, Tensor.__dlpack__, Tensor.equal, torch.equal, Tensor.nonzero, torch.nonzero, Tensor.unique,
          torch.unique, Tensor.masked_select, torch.masked_select}  # fmt: skip


def norm_arguments(func: Any, args: Any, kwargs: Any) -> dict[str, Any] | None:
    """Arguments of a call of `F.batch_norm` or `torch.batch_norm`, as `F.batch_norm` takes them; None of other functions."""
    names = _ARGUMENTS.get(func)
    if names is None:
        return None
    given = {**_DEFAULTS, **dict(zip(names, args)), **kwargs}
    return {name: given[name] for name in _NAMES}


class WritesWeights(Exception):
    """A function is about to write to a weight."""


@dataclass(frozen=True, slots=True)
class _Kind:
    """Traits of a function of torch, by its name.

    asks: it may ask for a size, a type or a place. reads: it hands values to Python, or is a batch norm that `norm_arguments`
    does not know. writes: to its first argument.
    """

    asks: bool
    reads: bool
    writes: bool


@lru_cache(1024)
def _kind(func: Any) -> _Kind:
    name = getattr(func, "__name__", "")
    reads = func in _READS or (func not in _ARGUMENTS and "batch_norm" in name and not name.startswith("path_"))
    writes = (name.endswith("_") and not name.endswith("__")) or name.startswith(("__i", "__set"))
    return _Kind(name in _ASKS, reads, writes)


class FunctionCalls(TorchFunctionMode):
    """Notes calls inside the `with` block, and gives those of batch norm on some statistics the statistics of each path.

    mode: norm mode of the layer. follow: memory of stored statistics; calls with these are changed. weights: memory that must
    not be written to.

    stored: memory of the stored statistics that calls of batch norm had. training: of those whose calls used the batch's.
    direct: whether a call was of `torch.batch_norm` itself. reads: whether values of a tensor, or a shape that depends on them,
    reached Python, another operator of batch norm was called, or a tensor read that an earlier run made.

    Raises:
        WritesWeights: before a write to `weights`.
    """

    def __init__(
        self, context: PathContext, mode: str, follow: Collection[int] = (), weights: Collection[int] = ()
    ) -> None:
        super().__init__()
        self._context, self.mode, self.follow, self._weights = context, mode, follow, set(weights)
        self.stored: dict[int, None] = {}
        self.training, self.direct, self.reads = set[int](), False, False
        self._of_input, self._following, self._place = set[int](), False, Rows(object(), 1)

    def inputs(self, streams: Iterable[Tensor]) -> None:
        """Follow what is computed from these tensors, and refuse writes to weights."""
        self._following = True
        self._of_input |= {memory(x) for x in streams}

    def of_input(self, x: Tensor) -> bool:
        """Whether a tensor was, or may have been, computed from the inputs."""
        return memory(x) in self._of_input

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        call = norm_arguments(func, args, kwargs)
        if call is not None and call["running_mean"] is not None:
            return self._batch_norm(func, call, args, kwargs)
        self.reads |= _kind(func).reads
        return self._call(func, args, kwargs)

    def norms(self) -> AbstractContextManager[Any]:
        """Return a context that may see calls of batch norm alone, which takes less time than this object as a context."""
        # For "recalibrate", `F.batch_norm` itself would refuse data of one value per channel.
        return self if self.mode == "recalibrate" else called_by(self._norm)

    def _norm(self, func: Any, args: Any, kwargs: Any) -> Any:
        call = norm_arguments(func, args, kwargs)
        if call is None or call["running_mean"] is None or memory(call["running_mean"]) not in self.follow:
            return func(*args, **kwargs)
        return self._normalised(call)

    def _call(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Call a function; with `inputs`, unless it would write to a weight, and note whether it computes from the inputs."""
        if not self._following:
            return func(*args, **kwargs)
        kind, targets = _kind(func), set[int]()
        if kind.writes or (kwargs and ("out" in kwargs or kwargs.get("inplace"))):
            targets = {memory(x) for x in _targets(args, kwargs)}
            if not targets.isdisjoint(self._weights):
                raise WritesWeights
        output = func(*args, **kwargs)
        if kind.asks and not isinstance(output, Tensor):
            return output
        of_input, read = self._of_input, set[int]()
        for x in tensors_in((*args, *kwargs.values()) if kwargs else args):
            read.add(memory(x))
            place = place_of(x)
            if place is not None and place.run is not self._place.run:
                self.reads = True
        results = tensors_in(output if isinstance(output, (tuple, list)) else [output])
        if read.isdisjoint(of_input):
            of_input -= {memory(x) for x in results} - read  # memory that was freed and is used again
            return output
        of_input |= targets
        for x in results:
            of_input.add(memory(x))
            mark(x, self._place)
        return output

    def _batch_norm(self, func: Any, call: dict[str, Any], args: Any, kwargs: Any) -> Any:
        storage = memory(call["running_mean"])
        self.stored[storage] = None
        self.direct |= func is not F.batch_norm
        if call["training"]:
            self.training.add(storage)
        if storage not in self.follow:
            return self._call(func, args, kwargs)
        y = self._normalised(call)
        self._of_input.add(memory(y))
        return y

    def _normalised(self, call: dict[str, Any]) -> Tensor:
        mean: Tensor = call["running_mean"]
        key = memory(mean), mean.storage_offset(), len(mean)
        return normalise(self._context, self.mode, key, call["input"], call["weight"], call["bias"], call["eps"])


def _targets(args: Any, kwargs: dict[str, Any]) -> Iterator[Tensor]:
    for value in (*args[:1], kwargs.get("out")):
        for x in value if isinstance(value, (tuple, list)) else [value]:
            if isinstance(x, Tensor):
                yield x


class NormUse:
    """Finds which stored statistics are those of batch norms that follow the mode, once for all candidates of a rating."""

    def __init__(self) -> None:
        self._follows: dict[int, bool] = {}
        self._copies: dict[int, Any] = {}  # of parts, that run in training mode

    def follow(self, statistics: Mapping[int, int], guess: bool = False) -> set[int]:
        """Memory of the statistics that are known to follow the mode; statistics: as `statistics_of` gives them.

        guess: and of those that are not known, where all that are known follow it.
        """
        unknown = guess and bool(self._follows) and all(self._follows.values())
        return {storage for storage, buffer in statistics.items() if self._follows.get(buffer, unknown)}

    def learn(
        self, module: nn.Module, run: nn.Module, statistics: Mapping[int, int], seen: FunctionCalls, given: Arguments
    ) -> bool:
        """Find which of the statistics that `run` used follow the mode; whether the run took some for others.

        A copy of the module runs in training mode. given: its arguments for one path.

        Raises:
            InputError: a batch norm that is to be re-estimated, with a forward of its own that does not call `F.batch_norm`; a
                module that does not run in training mode.
        """
        if seen.mode == "running":
            return False
        if seen.mode == "recalibrate":
            _check_seen(run, seen.stored)
        fresh = [s for s in seen.stored if s in statistics and statistics[s] not in self._follows]
        if not fresh:
            return False
        follow = {statistics[s] for s in fresh if s in seen.training}
        if len(follow) < len(fresh):
            follow |= self._in_training(module, {statistics[s] for s in fresh}, given)
        for storage in fresh:
            self._follows[statistics[storage]] = statistics[storage] in follow
        return any(self._follows[statistics[storage]] != (storage in seen.follow) for storage in fresh)

    def _in_training(self, module: nn.Module, fresh: set[int], given: Arguments) -> set[int]:
        """Buffers in whose place a module takes statistics of the batch in training mode, by their identities.

        Candidates that hold one module run on one copy of it; on one of its own, where that does not call all norms of `fresh`.
        """
        for copies in (self._copies, {}):
            copied = private_copy(module, known=copies)
            try:
                calls = _calls_in_training(copied, given)
            except InputError:
                if copies is not self._copies:
                    raise
                continue
            buffers = {memory(copy): id(buffer) for buffer, copy in zip(module.buffers(), copied.buffers())}
            if fresh <= {buffers.get(storage) for storage in calls.stored}:
                break
        return {buffers[storage] for storage in calls.training if storage in buffers}


def _calls_in_training(module: nn.Module, given: Arguments) -> FunctionCalls:
    """Calls of batch norm by a copy in training mode.

    Raises:
        InputError: a module that does not run in training mode.
    """
    for part in module.modules():
        if isinstance(part.__dict__.get("forward"), PathNorm):
            del part.forward
    # A module may refuse training mode, for lack of labels: then its norms alone are in it.
    for parts in ([module], [part for part in module.modules() if isinstance(part, _BatchNorm)]):
        module.eval()
        for part in parts:
            part.train()
        for some in (few(given), given):  # two samples take less time, where a module takes any number
            calls = _calls_of(module, some)
            if calls is not None and (parts == [module] or calls.training >= calls.stored.keys()):
                return calls
    raise InputError(
        f"[rate] expected a module that runs in training mode, which shows whose statistics its batch norm is to have, got "
        f"{name_of(module)}, which fails there; pass norm='running', or use nn.BatchNorm"
    )


def _calls_of(module: nn.Module, given: Arguments) -> FunctionCalls | None:
    """Calls of a module for these arguments; None where it fails. Weights and random numbers stay as they are."""
    drawn = RandomState(given[0].device)
    calls = FunctionCalls(PathContext(), "running", weights={memory(weight) for weight in module.parameters()})
    try:
        with calls:
            module(*cloned(given))
    except Exception:
        return None
    finally:
        drawn.restore()
    return calls


def statistics_of(module: nn.Module, run: nn.Module) -> dict[int, int]:
    """Memory of the buffers of `run`, a copy of `module`, with the identity of the module's."""
    return {memory(copied): id(buffer) for buffer, copied in zip(module.buffers(), run.buffers())}


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
