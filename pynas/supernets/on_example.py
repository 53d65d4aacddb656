"""Modules of a net run on an example: with its side inputs, and the stem on the example's own input."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map_only, tree_unflatten

from pynas.calls import takes
from pynas.errors import InputError
from pynas.supernets.net import Place
from pynas.supernets.shapes import Shape, extracted, is_view


class OnExample:
    """Wraps modules of a net so that they run on an example as on any input of its shape.

    example: `(input, side)`, or the input alone, a tensor `[B, ...]`, as token ids. side: what every candidate gets as its second
    argument, as in a rating: tensors `[B, ...]` or `[1, ...]` in any nest. The stem and the head get it where they take
    two arguments.
    """

    def __init__(self, example: Any) -> None:
        given, side = example if isinstance(example, (tuple, list)) else (example, None)
        if any(x.ndim == 0 or len(x) not in (1, len(given)) for x in tree_leaves(side) if isinstance(x, Tensor)):
            raise InputError(f"[costs] expected side inputs whose first axis is B={len(given)} or 1, got another")
        self._input, self._side = tree_map_only(Tensor, lambda x: x[:1].clone(), (given, side))
        self._known: dict[tuple[int, bool], nn.Module] = {}

    @property
    def shape(self) -> Shape:
        """Shape of the input without the batch axis."""
        return tuple(self._input.shape[1:])

    def wrapped(self, module: nn.Module, place: Place) -> nn.Module:
        """Return a module as one of a feature alone; one wrapper for each module."""
        at_end = isinstance(place[0], str)
        side = None if type(module) is nn.Identity or (at_end and not takes(module, 2)) else self._side
        given = self._input if place == ("stem",) else None
        if side is None and given is None:
            return module
        key = id(module), given is None
        if key not in self._known:
            self._known[key] = (_View if is_view(module) else _Sided)(module, side, given)
        return self._known[key]


class _Sided(nn.Module):
    """A module with side inputs of one sample, and where it is a stem, its input, also of one."""

    def __init__(self, module: nn.Module, side: Any, given: Tensor | None) -> None:
        super().__init__()
        self.module, self._has_side, self._source = module, side is not None, (side, given)
        leaves, self._structure = tree_flatten(side)
        self._leaves = [None if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        for number, leaf in enumerate(leaves):
            if isinstance(leaf, Tensor):
                self.register_buffer(f"side_{number}", leaf, persistent=False)
        if given is not None:
            self.register_buffer("given", given, persistent=False)

    def forward(self, x: Tensor) -> Any:
        """x: `[B, ...]`; a stem runs on as many copies of the example's sample."""
        buffers = {name: torch.cat([leaf] * len(x)) for name, leaf in self.named_buffers(recurse=False)}
        leaves = [buffers.get(f"side_{number}", leaf) for number, leaf in enumerate(self._leaves)]
        x = buffers.get("given", x)
        return self.module(x, tree_unflatten(leaves, self._structure)) if self._has_side else self.module(x)


class _View(_Sided):
    """A candidate that shares its weights as slices."""

    def extract(self, shape: Shape) -> nn.Module:
        """Return the plain module of its slices, with the side inputs; shape: of one input."""
        return _Sided(extracted(self.module, shape), *self._source)
