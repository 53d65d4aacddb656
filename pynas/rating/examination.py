"""Examination of one run of a module, operator by operator: do samples meet, and does it keep state?

A run on stacked paths proves that paths stay apart if every operator keeps the samples apart (`sample_rules`) and nothing in it
depends on a value that Python reads. Later runs on inputs of those shapes then take the same steps. State is proven in the same
way: a module keeps state if it reads what an earlier run left, or writes a tensor that is read.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial, wraps
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from pynas.rating.places import Rows, equal_rows, mark, mark_of, memory, place_of, tensors_in
from pynas.rating.sample_rules import BATCH_NORMS, Call, normalises_the_batch, place_after, rule_of

# Operators by which values of a tensor reach Python, and methods that are no operators.
_READ_BY_PYTHON = {f"aten::{name}" for name in ("item", "_local_scalar_dense", "is_nonzero", "equal")}
_TO_PYTHON = ("numpy", "tolist", "__array__", "__dlpack__")
# Operators of which only the shape and type of the input count.
_OF_THE_SHAPE = ("new_zeros new_ones new_full new_empty new_empty_strided zeros_like ones_like full_like empty_like "
                 "rand_like randn_like")  # fmt: skip
_FRESH = {f"aten::{name}" for name in _OF_THE_SHAPE.split()}
_DATA_DEPENDENT = (torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape)


class KeepsState(Exception):
    """A module whose output depends on what it ran on before. weights: it writes to its weights."""

    def __init__(self, name: str, weights: bool = False) -> None:
        super().__init__(f"{name} keeps state in evaluation mode")
        self.name, self.weights = name, weights


class Examination(TorchDispatchMode):
    """Follows the samples through the operators that run inside the `with` block.

    weights: tensors that the user's modules share, which must not be written to. name: the module's, for messages.

    open: operator by which values reached Python, "" for none. met: operator by which samples may have met in an output.
    state: whether the run depends on an earlier one. writes_input: whether it wrote to its inputs. stored_norm:
    whether an operator normalised by stored statistics of batch norm; any_norm: or had some. stopped: error by which the
    examination ended the run; TorchScript wraps it in one of its own.
    """

    def __init__(self, name: str, weights: Sequence[Tensor]) -> None:
        super().__init__()
        self._name = name
        self._weights, self._inputs = {memory(x) for x in weights}, set[int]()
        self._made, self._mixed, self._partly = set[int](), set[int](), set[int]()
        self._read, self._written = set[int](), set[int]()
        self.open = self.met = self._first = ""
        self.state = self.writes_input = self.stored_norm = self.any_norm = False
        self.stopped: Exception | None = None

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Follow all that runs inside the `with` block, also where tensors leave torch for Python or NumPy."""
        with _reads_noted(), self:
            yield

    def inputs(self, streams: Sequence[Tensor]) -> list[Tensor]:
        """Aliases of the run's inputs, whose first axis holds the samples."""
        return [self._alias(len(x), x) for x in streams]

    def sides(self, sides: Sequence[Any], streams: Sequence[Tensor]) -> list[Any]:
        """Aliases of the side inputs of these streams: those tensors that have the samples have them on the first axis."""
        return [tree_map_only(Tensor, partial(self._alias, len(x)), side) for side, x in zip(sides, streams)]

    def _alias(self, samples: int, x: Tensor) -> Tensor:
        alias = x.detach()
        mark(alias, Rows(self, samples if len(x) == samples else 0))
        self._inputs.add(memory(x))
        return alias

    def check(self, streams: Sequence[Any]) -> None:
        """Look whether the run's outputs hold the samples on the first axis, and whether what it wrote was read."""
        for x in streams:
            if isinstance(x, Tensor) and not self._apart(x):
                self.met = self.met or self._first or "other rows"
        self.state |= bool(self._written & self._read)

    def _apart(self, x: Tensor) -> bool:
        place = self._place(x)
        return x.ndim > 0 and (place == Rows(self, len(x)) if place and place.count else equal_rows(x, 0, len(x)))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if _is_composite(func):
            with self:
                return func.decompose(*args, **kwargs)
        tensors = tensors_in([*args, *kwargs.values()])
        written = [x for x in _written(func, args, kwargs) if isinstance(x, Tensor)]
        self._before(func, args, kwargs, tensors, written)
        outputs = func(*args, **kwargs)
        self._after(func, args, kwargs, tensors, written, outputs)
        return outputs

    def _before(self, func: Any, args: Any, kwargs: Any, tensors: list[Tensor], written: list[Tensor]) -> None:
        name = func._schema.name
        if any(memory(x) in self._weights for x in written):
            self.stopped = KeepsState(self._name, weights=True)
            raise self.stopped
        for x in tensors:
            if _only_writes(func) and any(x is other for other in written):
                if (place := mark_of(x)) and place.run is not self:
                    mark(x, None)
                continue
            self._read.add(memory(x))
            place = self._place(x)
            mark(x, place)
            if place is not None and _reads_values(func):
                self.open = self.open or name.removeprefix("aten::")
        self._note_norm(func, args, kwargs)

    def _after(
        self, func: Any, args: Any, kwargs: Any, tensors: list[Tensor], written: list[Tensor], outputs: Any
    ) -> None:
        known = {memory(x) for x in tensors}
        results = tensors_in(outputs if _is_list(outputs) else [outputs])
        for storage in {memory(x) for x in results} - known:
            # A freed tensor's memory may be used again.
            self._made.add(storage)
            self._mixed.discard(storage)
            self._partly.discard(storage)
        places, name = [place for x in tensors if (place := place_of(x))], func._schema.name
        place = None
        if places and name not in _FRESH:
            place = place_after(func, args, kwargs, outputs if results else written[0]) if results or written else None
            if place is None and (results or written):
                self._first = self._first or name.removeprefix("aten::")
            place = place or Rows(self, places[0].count, axis=-1)
        elif name not in _FRESH and any(map(mark_of, tensors)):
            for x in results:
                mark(x, Rows(self, 0))
        for x in written:
            self._note_write(x, place)
        if place is not None:
            self._note_results(func, results, written, place)

    def _note_norm(self, func: Any, args: Any, kwargs: Any) -> None:
        if func._schema.name in BATCH_NORMS:
            call = Call(func, args, kwargs, None)
            if call.args.get("running_mean") is not None:
                self.any_norm, self.stored_norm = True, self.stored_norm or not normalises_the_batch(call)

    def _note_write(self, x: Tensor, place: Rows | None) -> None:
        storage = memory(x)
        if storage in self._inputs:
            self.writes_input = True
        elif storage not in self._made:
            self._written.add(storage)
        if place is not None:
            if place.axis < 0:
                self._mixed.add(storage)
            elif place_of(x) is None:
                self._partly.add(storage)
            mark(x, place)

    def _note_results(self, func: Any, results: list[Tensor], written: list[Tensor], place: Rows) -> None:
        if func.namespace == "pynas":  # the statistics that follow are those of each path
            results = results[:1] if not written else []
        for x in results:
            mark(x, place if x.ndim == results[0].ndim else Rows(self, place.count, axis=-1))

    def _place(self, x: Tensor) -> Rows | None:
        """Mark of a tensor that is read now."""
        place, storage = mark_of(x), memory(x)
        if place is not None and place.run is not self:
            self.state = True
            place = Rows(self, place.count, axis=-1)
        count = place.count if place else 0
        if storage in self._mixed or (not count and storage in self._partly):
            return Rows(self, count or 1, axis=-1)
        return place


# How many examinations run now, in all threads; the methods of `Tensor` that they replace.
_running = 0
_replaced: dict[str, Any] = {}
_lock = threading.Lock()


@contextlib.contextmanager
def _reads_noted() -> Iterator[None]:
    """Have the methods by which a tensor leaves torch note this in the examination that the tensor belongs to.

    A mode for functions would see them too, but torch's fused layers run otherwise under one.
    """
    global _running
    with _lock:
        _running += 1
        if _running == 1:
            for name in _TO_PYTHON:
                _replaced[name] = vars(Tensor).get(name)
                setattr(Tensor, name, _noting(name, getattr(Tensor, name)))
    try:
        yield
    finally:
        with _lock:
            _running -= 1
            for name in () if _running else _TO_PYTHON:
                if _replaced[name] is None:
                    delattr(Tensor, name)
                else:
                    setattr(Tensor, name, _replaced[name])


def _noting(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)
    def noted(self: Tensor, *args: Any, **kwargs: Any) -> Any:
        place: Any = mark_of(self)
        if place is not None:
            place.run.open = place.run.open or name
        return method(self, *args, **kwargs)

    return noted


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple))


@cache
def _reads_values(func: Any) -> bool:
    """Whether values of a tensor reach Python, or the outputs' shapes."""
    return func._schema.name in _READ_BY_PYTHON or any(tag in func.tags for tag in _DATA_DEPENDENT)


@cache
def _is_composite(func: Any) -> bool:
    """Whether an operator without a rule of its own consists of others."""
    composite = torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd")
    return rule_of(func) is None and composite


@cache
def _written_arguments(func: Any) -> tuple[tuple[int, str], ...]:
    arguments = enumerate(func._schema.arguments)
    return tuple((i, a.name) for i, a in arguments if a.alias_info is not None and a.alias_info.is_write)


@cache
def _only_writes(func: Any) -> bool:
    """Whether an operator's results are what it wrote to, as of `add_`."""
    returns = func._schema.returns
    return bool(_written_arguments(func)) and all(r.alias_info is not None and r.alias_info.is_write for r in returns)


def _written(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> list[Any]:
    """Arguments that an operator writes to."""
    return [args[i] if i < len(args) else kwargs.get(name) for i, name in _written_arguments(func)]
