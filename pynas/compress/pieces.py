"""Units of a model as modules from one feature to one feature, the batches that they are rated on, and the model after them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from pynas.calls import Call, Pick, with_leaf
from pynas.compress.units import Unit
from pynas.errors import InputError
from pynas.teachers.tail import Tail
from pynas.visits import Enough, hooked


class Piece(nn.Module):
    """A unit, or a smaller one in its place, from its hidden feature to its hidden feature.

    module: None leaves the unit out. number: of the unit in its block. Other arguments, such as masks, come from the side inputs,
    `side["units"][number]`; without, they are those of the example.
    """

    def __init__(self, module: nn.Module | None, unit: Unit, number: int) -> None:
        super().__init__()
        self.module, self._number, self._entry, self._exit = module, number, unit.entry, unit.exit
        self._leaves = [None if isinstance(leaf, Tensor) else leaf for leaf in unit.call.leaves]
        self._spec = tree_flatten((unit.call.args, unit.call.kwargs))[1]

    def forward(self, x: Tensor, side: Any = None) -> Tensor:
        """x: `[B, ...]` -> the feature after the unit, `[B, ...]`."""
        if self.module is None:
            return x
        leaves = list(self._leaves) if side is None else unwrapped(*side["units"][self._number])
        leaves[self._entry] = x
        args, kwargs = tree_unflatten(leaves, self._spec)
        return tree_leaves(self.module(*args, **kwargs))[self._exit]


class Skip(nn.Module):
    """Takes the place of a unit that is left out: returns the feature that it gets, in the form of the unit's output.

    settings: attributes for models that read those of their units, as Hugging Face's kinds of masks.
    """

    def __init__(self, entry: int, exit: int, output: Any, settings: Mapping[str, Any]) -> None:
        super().__init__()
        vars(self).update(settings)
        self._entry, self._exit, self._output, self._settings = entry, exit, output, settings

    @classmethod
    def of(cls, unit: Unit) -> nn.Module:
        """Return what takes the place of a unit: `nn.Identity` where it gets and returns the feature alone."""
        if isinstance(unit.output, Tensor) and len(unit.call.args) == 1 and not unit.call.kwargs:
            return nn.Identity().eval()
        return cls(unit.entry, unit.exit, unit.with_feature(None), vars(_settings(unit.module))).eval()

    @property
    def description(self) -> dict[str, Any]:
        """Return the arguments as JSON values; outputs: length of a tuple that is returned, None for the feature alone.

        Raises:
            InputError: an output of another kind.
        """
        if self._output is not None and type(self._output) is not tuple:
            raise InputError(
                f"[compress] expected parts that return a tensor or a tuple, got {type(self._output).__name__}"
            )
        outputs = None if self._output is None else len(self._output)
        return {"entry": self._entry, "exit": self._exit, "outputs": outputs, "settings": _as_dict(self._settings)}

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return the feature among the arguments."""
        return with_leaf(self._output, self._exit, Call(args, kwargs).leaves[self._entry])


def _settings(module: nn.Module) -> SimpleNamespace:
    """Return plain values among the attributes of a module and of those inside it."""
    values = {
        name: value
        for name, value in vars(module).items()
        if name[0] != "_" and name != "training" and isinstance(value, (bool, int, float, str))
    }
    return SimpleNamespace(**values, **{name: _settings(child) for name, child in module.named_children()})


def _as_dict(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _as_dict(vars(v)) if isinstance(v, SimpleNamespace) else v for name, v in values.items()}


def wrapped(leaves: Sequence[Any], batched: Sequence[bool]) -> list[Any]:
    """Return arguments as side inputs: tensors without samples get a first axis of 1."""
    return [leaf if not isinstance(leaf, Tensor) or own else leaf[None] for leaf, own in zip(leaves, batched)]


def unwrapped(leaves: Sequence[Any], batched: Sequence[bool]) -> list[Any]:
    """Return the arguments that `wrapped` took."""
    return [leaf if not isinstance(leaf, Tensor) or own else leaf[0] for leaf, own in zip(leaves, batched)]


@torch.no_grad()
def captured(
    model: nn.Module, units: Sequence[Unit], call: Call, whole: bool = False, ends: Sequence[Unit] | None = None
) -> tuple[list[Call], list[Tensor], Any]:
    """Run a model and return the calls of units, the output features of some, and the model's output.

    units: in the order in which they run. whole: run the model to its end; else the output is None. ends: units whose output
    features are returned, with the last of all; None for the last alone.
    """
    calls: dict[str, Call] = {}
    features: list[Tensor] = []
    ends, kept = units[-1:] if ends is None else ends, call.attended

    def begin(name: str) -> Callable[..., None]:
        def note(part: nn.Module, args: Any, kwargs: Any) -> None:
            calls[name] = Call(args, kwargs, kept).mapped(torch.clone)

        return note

    def end(unit: Unit) -> Callable[..., None]:
        def note(part: nn.Module, args: Any, output: Any) -> None:
            features.append(unit.pick(output).clone())
            if unit is units[-1] and not whole:
                raise Enough

        return note

    handles = [
        model.get_submodule(unit.name).register_forward_pre_hook(begin(unit.name), with_kwargs=True) for unit in units
    ]
    handles += [model.get_submodule(unit.name).register_forward_hook(end(unit)) for unit in ends]
    output = None
    with hooked(handles), contextlib.suppress(Enough):
        output = call(model)
    return [calls[unit.name] for unit in units], features, output


def side_of(calls: Sequence[Call], units: Sequence[Unit], model: Call | None) -> Any:
    """Return the side inputs of a block's units, and for the tail the model's own; None where the feature is all that counts.

    The other arguments of a unit may be others than in the example: a mask, for one, is None in a batch without padding.
    """
    parts, needed = [], model is not None
    for call, unit in zip(calls, units):
        leaves, example, count = call.leaves, unit.call.leaves, len(unit.feature(call))
        leaves[unit.entry] = None
        own = [
            known
            or (isinstance(leaf, Tensor) and not isinstance(before, Tensor) and leaf.ndim > 0 and len(leaf) == count)
            for leaf, before, known in zip(leaves, example, unit.batched)
        ]
        parts.append((wrapped(leaves, own), own))
        needed |= any(
            isinstance(leaf, Tensor) or isinstance(before, Tensor) or leaf != before
            for at, (leaf, before) in enumerate(zip(leaves, example))
            if at != unit.entry
        )
    if not needed:
        return None
    return {"units": parts, **({} if model is None else {"model": model.leaves})}


def tail_after(model: nn.Module, unit: Unit, units: Sequence[Unit], call: Call, pick: Pick) -> Tail:
    """Return the model after one of its units; residual units before it do not run.

    Raises:
        InputError: an output that depends on the inputs not through the unit alone.
    """
    skips = {other.name: Skip.of(other).forward for other in units if other.residual}
    return Tail(model, unit.name, call, pick, own_inputs=True, skips=skips)
