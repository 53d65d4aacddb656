"""Calls of a model's submodules: what each got and returned, and which output is whose input."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from pynas.calls import Call


@dataclass
class Visit:
    """One call of a submodule.

    begin, end: ticks of a clock that runs over all calls. inputs, outputs: identities of the tensors that went in and came
    out; a tensor that is written to gets another identity.
    """

    name: str
    module: nn.Module
    call: Call
    begin: int
    inputs: list[tuple[Any, ...] | None]
    output: Any = None
    end: int = 0
    outputs: list[tuple[Any, ...] | None] = field(default_factory=list)


@contextmanager
def hooked(handles: Iterable[Any]) -> Any:
    """Remove hooks at the end of the block."""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class Enough(Exception):
    """End of a run whose rest is not needed."""


class _Recorder:
    """Notes every call of some submodules."""

    def __init__(self, shapes_only: bool) -> None:
        self._kept = (lambda x: x.to("meta")) if shapes_only else (lambda x: x)
        self.visits: list[Visit] = []
        self._open: list[Visit] = []
        self._clock = 0

    def hooks(self, name: str, module: nn.Module) -> list[Any]:
        def begin(part: nn.Module, args: Any, kwargs: Any) -> None:
            self._clock += 1
            call = Call(args, kwargs)
            inputs = [identity(leaf) for leaf in call.leaves]
            self._open.append(Visit(name, part, call.mapped(self._kept), self._clock, inputs))

        def end(part: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            self._clock += 1
            visit = self._open.pop()
            visit.output, visit.end = tree_map_only(Tensor, self._kept, output), self._clock
            visit.outputs = [identity(leaf) for leaf in tree_leaves(output)]
            self.visits.append(visit)

        return [
            module.register_forward_pre_hook(begin, with_kwargs=True),
            module.register_forward_hook(end, with_kwargs=True),
        ]


@torch.no_grad()
def trace(model: nn.Module, call: Call, shapes_only: bool = False) -> tuple[list[Visit], Any]:
    """Run a model and return the calls of its submodules in the order in which they ended, and the model's output.

    shapes_only: keep what went in and came out on the meta device, without memory.
    """
    recorder = _Recorder(shapes_only)
    handles = [handle for name, part in model.named_modules() if name for handle in recorder.hooks(name, part)]
    with hooked(handles):
        return recorder.visits, call(model)


def identity(leaf: Any) -> tuple[Any, ...] | None:
    """Return a tensor's memory, version and shape, which no other tensor has while it lives; None of other values."""
    if not isinstance(leaf, Tensor):
        return None
    return leaf.untyped_storage()._cdata, leaf.storage_offset(), leaf._version, tuple(leaf.shape), leaf.stride()
