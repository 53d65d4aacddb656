"""Side inputs of a batch: attention masks, rotary tables, position ids, in any nest of dictionaries, lists and tuples.

A module gets them as its second argument. A tensor whose first axis has the samples is repeated for stacked paths, path-major
as the input is; one whose first axis is 1 broadcasts; all that is no tensor passes as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_map_only

from pynas.errors import InputError

# A module's arguments: the input, and the side where there is one.
Arguments = tuple[Any, ...]


class Sides:
    """Side inputs of the streams of one evaluation, shared by all threads; none where no stream has one.

    key: their structure, types and values that are no tensors, on which the steps of a module may depend.
    """

    def __init__(self) -> None:
        self.give([], [])

    def give(self, sides: Sequence[Any], streams: Sequence[Tensor]) -> None:
        """Take the sides of these streams, in place of those of the evaluation before."""
        some = any(side is not None for side in sides)
        self._given, self._rows = list(sides) if some else [], [len(x) for x in streams]
        self._most = 1, self._given
        self.key = tuple(_key(side, rows) for side, rows in zip(self._given, self._rows))

    def __bool__(self) -> bool:
        return bool(self._given)

    def stacked(self, paths: int) -> list[Any]:
        """Sides of so many stacked paths, one per stream; none must be written to. Smaller stacks are views of the largest."""
        most, sides = self._most
        if paths > most:
            most, sides = paths, self._each(lambda x, rows: x.repeat(paths, *[1] * (x.ndim - 1)), self._given, 1)
            self._most = most, sides
        return sides if paths == most else self._each(lambda x, rows: x[: paths * rows], sides, most)

    def forget(self) -> None:
        """Free all repeated tensors."""
        self._most = 1, self._given

    def first(self, x: Tensor) -> Arguments:
        """Arguments of a module that runs on `x`, the first stream of one path."""
        return arguments(x, self._given[0] if self._given else None)

    def _each(self, change: Callable[[Tensor, int], Tensor], sides: list[Any], paths: int) -> list[Any]:
        """Change the tensors with the samples of so many paths."""

        def changed(rows: int, x: Tensor) -> Tensor:
            return change(x, rows) if len(x) == rows * paths else x

        return [tree_map_only(Tensor, partial(changed, rows), side) for side, rows in zip(sides, self._rows)]


def arguments(x: Tensor, side: Any) -> Arguments:
    """Arguments of a module: the input, and the side where there is one, in containers of its own."""
    return (x,) if side is None else (x, tree_map(lambda part: part, side))


def call(module: nn.Module, given: Arguments) -> Any:
    """Output of a module; `nn.Identity`, by which a layer is left out, takes no side."""
    return module(given[0]) if type(module) is nn.Identity else module(*given)


def cloned(values: Any) -> Any:
    """Copy the tensors of a nest."""
    return tree_map_only(Tensor, Tensor.clone, values)


def few(values: Any) -> Any:
    """Views of the tensors of a nest, of at most two samples."""
    return tree_map_only(Tensor, lambda x: x[:2], values)


def placed(side: Any, device: torch.device, dtype: torch.dtype | None) -> Any:
    """Move the tensors of a side to a device, those of floating type to a type, if one is given."""
    return tree_map_only(Tensor, lambda x: x.detach().to(device, dtype if x.is_floating_point() else None), side)


def tensors_of(values: Any) -> list[Tensor]:
    """Tensors of a nest."""
    return [x for x in tree_leaves(values) if isinstance(x, Tensor)]


def check_side(side: Any, rows: int) -> Any:
    """Return the side of a batch of so many samples.

    Raises:
        InputError: a tensor that has neither the samples nor 1 on its first axis.
    """
    for x in tensors_of(side):
        if x.ndim == 0 or len(x) not in (1, rows):
            raise InputError(
                f"[rate] expected side inputs whose first axis is B={rows} or 1, got a tensor of the shape {tuple(x.shape)}"
            )
    return side


def _key(side: Any, rows: int) -> object:
    leaves, structure = tree_flatten(side)
    return repr(structure), *(
        (len(x) == rows, x.shape[1:], x.dtype) if isinstance(x, Tensor) else repr(x) for x in leaves
    )
