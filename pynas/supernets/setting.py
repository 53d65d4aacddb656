"""A layer of another project with one of its choices fixed: a candidate. Its siblings hold the same layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pynas.copies import copy_module
from pynas.errors import InputError
from pynas.supernets.modes import device_of
from pynas.supernets.shapes import Shape, blame, is_view, kept_generators

Extract = Callable[[Any, Any, Shape], nn.Module]


class Setting(nn.Module):
    """A layer that runs with one choice, a code or a configuration.

    prepare: called with the layer and the choice before the layer runs. call: called with the layer, the input and the
    choice, returns the output; None runs `layer(x)`. A side input of `rate` is one more argument of either. pick: as for
    `Picked`. extract: called with a private copy of the layer, prepared, with the choice and the input's shape without the
    batch axis; returns a plain module of this choice.

    `extract(shape)` is a method only where the argument `extract` is given.
    """

    def __init__(
        self,
        layer: nn.Module,
        choice: Any,
        *,
        prepare: Callable[[Any, Any], object] | None = None,
        call: Callable[..., Any] | None = None,
        pick: Any = None,
        extract: Extract | None = None,
    ) -> None:
        super().__init__()
        self.layer, self.choice = layer, choice
        self._prepare, self._call, self._pick, self._extract = prepare, call, pick, extract

    def forward(self, x: Tensor, side: Any = None) -> Any:
        if self._prepare is not None:
            self._prepare(self.layer, self.choice)
        more = () if side is None else (side,)
        y = self.layer(x, *more) if self._call is None else self._call(self.layer, x, self.choice, *more)
        return picked(y, self._pick)

    @property
    def original_name(self) -> str:
        """Class of the layer, for messages."""
        return type(self.layer).__name__

    @property
    def extract(self) -> Callable[[Shape], nn.Module]:
        """Function from the input's shape, without the batch axis, to a plain module of this choice with weights of its own."""
        if self._extract is None:
            raise AttributeError("extract")
        return self._plain

    def _plain(self, shape: Shape) -> nn.Module:
        layer = copy_module(self.layer, where="extract")
        with torch.no_grad(), kept_generators(device_of(layer)):
            try:
                if self._prepare is not None:
                    self._prepare(layer, self.choice)
                plain = self._extract(layer, self.choice, tuple(shape))  # type: ignore[misc]
            except InputError:
                raise
            except Exception as error:
                raise InputError(f"[extract] expected a module from extract(layer, {self.choice!r}, {tuple(shape)}), got "
                                 f"{blame(self.layer, error)}; check the function") from error  # fmt: skip
        if not isinstance(plain, nn.Module):
            raise InputError(f"[extract] expected an nn.Module from extract(layer, {self.choice!r}, {tuple(shape)}), got "
                             f"{type(plain).__name__}; return the module of this choice")  # fmt: skip
        plain = copy_module(plain, where="extract")  # a slice's memory is the whole weight's until it is copied
        return (plain if self._pick is None else Picked(plain, self._pick)).train(self.training)


class Picked(nn.Module):
    """A module with one tensor picked out of its output.

    pick: position, key, attribute or function that takes the tensor out of the output; an output that is a tensor already
    passes a position or key.
    """

    def __init__(self, layer: nn.Module, pick: Any) -> None:
        super().__init__()
        self.layer, self._pick = layer, pick

    def forward(self, x: Tensor, side: Any = None) -> Any:
        return picked(self.layer(x) if side is None else self.layer(x, side), self._pick)

    @property
    def original_name(self) -> str:
        """Class of the module, for messages."""
        return type(self.layer).__name__

    @property
    def extract(self) -> Callable[[Shape], nn.Module]:
        """Extraction of the module, for one that has it."""
        if not is_view(self.layer):
            raise AttributeError("extract")
        return lambda shape: Picked(self.layer.extract(shape), self._pick)  # type: ignore[operator]


def picked(output: Any, pick: Any) -> Any:
    """Take the tensor that `pick` names out of a module's output.

    Raises:
        InputError: an output without this position, key or attribute.
    """
    if pick is None or (isinstance(output, Tensor) and not callable(pick)):
        return output
    if callable(pick):
        return pick(output)
    try:
        by_name = isinstance(pick, str) and not isinstance(output, Mapping)
        return getattr(output, pick) if by_name else output[pick]
    except (AttributeError, KeyError, IndexError, TypeError) as error:
        has = f" of {', '.join(map(repr, output))}" if isinstance(output, Mapping) else ""
        has = has or (f" of {len(output)}" if isinstance(output, (tuple, list)) else "")
        raise InputError(f"[adapters] expected an output with {pick!r}, got {type(output).__name__}{has}; pass the position or "
                         "key of the tensor as pick=") from error  # fmt: skip
