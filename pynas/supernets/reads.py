"""Elements of its parameters that a module reads, found by a trial run."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pynas.supernets.shapes import Shape, trial

# Operators whose results are elements of their first argument, chosen by the values of others.
_CHOOSING = {"index", "_unsafe_index", "index_select", "gather", "take", "embedding", "masked_select"}
_COPYING = {"clone", "_to_copy"}


def partly_read(module: nn.Module, shape: Shape, parameters: Collection[int]) -> str | None:
    """Name of a parameter of which a module reads only some elements on inputs of `shape`; None where it reads all.

    Slices of a weight and of copies of it, also scaled or standardised ones, count as they are; a masked weight is read whole.

    parameters: ids of those to look at.

    Raises:
        InputError: a module that does not run on inputs of this shape (without the batch axis).
    """
    names = [name for name, parameter in module.named_parameters() if id(parameter) in parameters]

    def run(subject: nn.Module, x: Tensor) -> str | None:
        own = dict(subject.named_parameters())
        reads = _Reads({name: own[name] for name in names}, x)
        with reads:
            subject(x)
        return next((name for name in names if not reads.whole(own[name])), None)

    return trial(module, shape, run) if names else None


def elements_read(module: nn.Module, shape: Shape) -> int:
    """Number of elements of its parameters that a module reads on inputs of `shape`, each element once.

    Raises:
        InputError: a module that does not run on inputs of this shape (without the batch axis).
    """

    def run(subject: nn.Module, x: Tensor) -> int:
        own: dict[str, Tensor] = dict(subject.named_parameters())
        reads = _Reads(own, x)
        with reads:
            subject(x)
        return sum(reads.count(parameter) for parameter in own.values())

    return trial(module, shape, run)


class _ValuesNeeded(Exception):
    """A run without values met an operator that chooses elements by values."""


class _Reads(TorchDispatchMode):
    """Notes which elements of parameters are read by operators that run, other than through views.

    What is computed of parameters alone, element by element, stands for their elements, and is read when it is used.
    """

    supports_higher_order_operators = True

    def __init__(self, parameters: dict[str, Tensor], x: Tensor) -> None:
        super().__init__()
        # Per storage: the parameters' elements that its elements stand for, as (storage, their positions in it).
        self._stands_for: dict[int, list[tuple[int, Tensor]]] = {}
        self._marks: dict[int, Tensor] = {}
        self._of_input = {_storage(x)}
        self._alive: list[Tensor] = [x]  # the number of a freed storage may be used again
        for parameter in parameters.values():
            size = parameter.untyped_storage().nbytes() // parameter.element_size()
            self._stands_for[_storage(parameter)] = [(_storage(parameter), torch.arange(size, device="cpu"))]
            self._marks[_storage(parameter)] = torch.zeros(size, dtype=torch.bool, device="cpu")

    def whole(self, parameter: Tensor) -> bool:
        """Whether every element of a parameter was read."""
        return self.count(parameter) == parameter.numel()

    def count(self, parameter: Tensor) -> int:
        """Number of a parameter's elements that were read."""
        return int(_laid_out(self._marks[_storage(parameter)], parameter).sum())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        inputs = [leaf for leaf in tree_leaves([args, kwargs]) if isinstance(leaf, Tensor)]
        name = func._overloadpacket.__name__ if isinstance(func, torch._ops.OpOverload) else str(func)
        tracked = [tensor for tensor in inputs if _storage(tensor) in self._stands_for]
        chooses = name in _CHOOSING and any(tensor is args[0] for tensor in tracked)
        if chooses and args[0].device.type == "meta":
            raise _ValuesNeeded(name)
        output = func(*args, **kwargs)
        results = [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]
        self._alive += results
        if name.endswith("_like") or name.startswith("new_"):
            return output
        after = {_storage(result) for result in results}
        tracked = [tensor for tensor in tracked if _storage(tensor) not in after]
        if any(_storage(tensor) in self._of_input for tensor in inputs):
            self._of_input |= after - self._stands_for.keys()
        elif tracked and len(results) == 1 and (name in _COPYING or torch.Tag.pointwise in getattr(func, "tags", ())):
            places = [place for tensor in tracked for place in self._places(tensor)]
            self._derive(results[0], [(to, at.expand(results[0].shape)) for to, at in places])
            return output
        if chooses:
            places = self._places(args[0])
            self._derive(output, [(to, func(at, *args[1:], **kwargs)) for to, at in places])
            return output
        for tensor in tracked:
            self._mark(tensor)
        return output

    def _mark(self, tensor: Tensor) -> None:
        own = self._marks.get(_storage(tensor))
        if own is not None and len(own) == tensor.numel() and torch.ops.aten.is_non_overlapping_and_dense(tensor):
            own.fill_(True)
            return
        for to, at in self._places(tensor):
            self._marks[to][at.reshape(-1)] = True

    def _places(self, tensor: Tensor) -> list[tuple[int, Tensor]]:
        """Positions in parameters that a tensor's elements stand for, in the tensor's shape; none where its type is another."""
        known = self._stands_for[_storage(tensor)]
        sizes = {len(at) * tensor.element_size() for _, at in known}
        return [(to, _laid_out(at, tensor)) for to, at in known] if sizes == {tensor.untyped_storage().nbytes()} else []

    def _derive(self, result: Tensor, places: list[tuple[int, Tensor]]) -> None:
        """Let a fresh tensor's elements stand for those of parameters."""
        size = result.untyped_storage().nbytes() // result.element_size()
        known = []
        for to, at in places:
            flat = torch.zeros(size, dtype=torch.int64, device="cpu")
            _laid_out(flat, result).copy_(at)
            known.append((to, flat))
        self._stands_for[_storage(result)] = known


def _storage(tensor: Tensor) -> int:
    """Number of a tensor's memory; views of one tensor share it."""
    try:
        return tensor.untyped_storage()._cdata
    except (NotImplementedError, RuntimeError):  # sparse tensors have none
        return id(tensor)


def _laid_out(flat: Tensor, like: Tensor) -> Tensor:
    """View of a storage's elements with the layout of a tensor on it."""
    return flat.as_strided(like.size(), like.stride(), like.storage_offset())
