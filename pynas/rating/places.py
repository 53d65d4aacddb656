"""Place of the samples in a tensor: where a run of a module has them, operator after operator.

A tensor that depends on the input has its samples on one axis, of `fold` entries per sample, the sample being the slow index:
windows and heads fold into the batch axis. Tensors without a place depend on no sample; where they reach along the samples'
axis, each sample must get equal values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Rows:
    """Samples of one run: `count` of them, on `axis`, `fold` entries each; axis -1: they have met.

    run: the examination that they belong to. count 0: none, of a tensor that depends only on inputs that all samples share.
    """

    run: object
    count: int
    axis: int = 0
    fold: int = 1


class Call:
    """One call of an operator: its arguments by the names of its schema, and the places of its tensors."""

    def __init__(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], output: Any) -> None:
        self.name, self.output = func._schema.name, output
        names, defaults = signature(func)
        given = {**defaults, **dict(zip(names, args)), **kwargs}
        self.args = {name: given[name] for name in names if name in given}

    def tensors(self) -> list[Tensor]:
        """Return the tensor arguments, in the order of the schema."""
        return tensors_in(self.args.values())

    @property
    def first(self) -> Tensor:
        """The first tensor argument."""
        return self.tensors()[0]

    @property
    def out(self) -> Tensor:
        """The first output."""
        return self.output if isinstance(self.output, Tensor) else self.output[0]


@cache
def signature(func: Any) -> tuple[list[str], dict[str, Any]]:
    """Names of an operator's arguments, and their defaults."""
    arguments = func._schema.arguments
    return [a.name for a in arguments], {a.name: a.default_value for a in arguments if a.has_default_value()}


def tensors_in(values: Any) -> list[Tensor]:
    """Tensors among arguments, and inside lists of them."""
    found = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, (list, tuple)):
            found += [part for part in value if isinstance(part, Tensor)]
    return found


def memory(x: Tensor) -> int:
    """Number of a tensor's memory; views of one tensor share it."""
    try:
        return x.untyped_storage()._cdata
    except (NotImplementedError, RuntimeError):  # sparse tensors have none
        return id(x)


def mark_of(x: Any) -> Rows | None:
    """Return the mark on a tensor; None where it depends on no input."""
    return x.__dict__.get("_pynas_rows") if isinstance(x, Tensor) else None


def place_of(x: Any) -> Rows | None:
    """Place of the samples in a tensor; None where it depends on no sample."""
    place = mark_of(x)
    return place if place is not None and place.count else None


def mark(x: Any, place: Rows | None) -> None:
    """Note the place of the samples on a tensor."""
    if isinstance(x, Tensor):
        x._pynas_rows = place  # type: ignore[attr-defined]


def equal_rows(x: Tensor, axis: int, count: int) -> bool:
    """Whether each of `count` samples on an axis gets equal values of a tensor that depends on none."""
    if x.shape[axis] % count:
        return False
    rows = x.detach().unflatten(axis, (count, -1))
    return rows.stride(axis) == 0 or bool((rows == rows.narrow(axis, 0, 1)).all())


def aligned(tensors: Sequence[Tensor], ndim: int) -> Rows | None:
    """Common place of tensors that broadcast to `ndim` dimensions."""
    places = {
        replace(place, axis=place.axis + ndim - x.ndim) for x in tensors if (place := place_of(x)) and place.axis >= 0
    }
    if len(places) != 1:
        return None
    (place,) = places
    for x in tensors:
        axis = place.axis - ndim + x.ndim  # type: ignore[operator]
        if place_of(x) is None and axis >= 0 and x.shape[axis] != 1 and not equal_rows(x, axis, place.count):
            return None
    return place
