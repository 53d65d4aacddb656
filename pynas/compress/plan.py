"""A plan: the units of a model, the parts of each that can be cut, and the supernet of their candidates."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from pynas.calls import Call
from pynas.compress.cuts import Cut, Parts
from pynas.compress.net import UnitNet
from pynas.compress.refit import estimate
from pynas.compress.units import example_of, find_units
from pynas.copies import copy_module, unwrapped
from pynas.costs import Costs
from pynas.errors import InputError

WIDTHS = (1.0, 0.83, 0.67, 0.5, 0.33)
HEADS = (1.0, 0.75, 0.5, 0.25)
# Paths of a block that are rated together.
_PATHS = 150


class Plan:
    """Units of a model that can be made smaller.

    model: a private copy in evaluation mode, on the weights of the user's model. call: the example, two samples. parts: of each
    unit, in the order in which they run.
    """

    def __init__(self, model: nn.Module, call: Call, parts: Sequence[Parts]) -> None:
        self.model, self.call, self.parts = model, call, parts
        self._net: UnitNet | None = None

    def supernet(
        self,
        widths: Sequence[float] = WIDTHS,
        heads: bool | Sequence[float] = True,
        drop: bool = True,
        kernels: Sequence[int] = (3,),
        refit: Iterable[Any] | None = None,
        paths: int = _PATHS,
    ) -> UnitNet:
        """Return the supernet of the units' candidates; a layer per unit, and a block of consecutive units.

        Args:
            widths: shares of the hidden channels. heads: shares of the heads, or of the key-value heads with their queries;
                True for 1, 3/4, 1/2, 1/4, False for all heads. drop: residual units may be left out.
            kernels: sides of smaller kernels of depthwise convolutions.
            refit: calibration batches, as the model takes them: channels and heads are ranked by what they add on these, and
                the layers that read fewer are solved by least squares. None ranks by number and keeps slices.
            paths: most paths of a block.

        Raises:
            InputError: shares outside of 0 to 1, kernels of an even side, no batch to refit on.
        """
        shares = HEADS if heads is True else tuple(heads or (1.0,))
        for share in (*widths, *shares):
            if not isinstance(share, Real) or not 0 < share <= 1:
                raise InputError(f"[compress] expected widths and heads above 0 and at most 1, got {share!r}")
        if any(side < 1 or side % 2 == 0 for side in kernels):
            raise InputError(f"[compress] expected kernels of odd sides, got {tuple(kernels)}")
        cuts = [parts.cuts(widths, shares, kernels, drop) for parts in self.parts]
        calls = None if refit is None else [Call.of(batch, self.model) for batch in refit]
        if calls == []:
            raise InputError("[compress] expected at least one batch to refit on, got none; refit=None keeps slices")
        self._net = UnitNet(self.model, self.call, list(_blocks(self.parts, cuts, paths)), calls)
        return self._net

    def costs(self, net: UnitNet, **options: Any) -> Costs:
        """Return the costs of a supernet of the plan (`UnitNet.costs`)."""
        return net.costs(**options)

    def assemble(self, found: Any, recalibrate: Iterable[Any] | None = None) -> nn.Module:
        """Return the model with an architecture of the plan's latest supernet: the user's class, with smaller units.

        found: an architecture, its string form, or an entry of a search. recalibrate: batches on which the statistics of
        batch norm are estimated anew; those of the model are kept without.
        """
        if self._net is None:
            raise InputError(
                "[compress] expected a supernet of the plan before an architecture is assembled; call supernet() first"
            )
        return self._net.extract(getattr(found, "architecture", found), recalibrate=recalibrate)

    def __str__(self) -> str:
        lines = []
        for parts in self.parts:
            able = [f"{h.channels} channels of {h.root}" for h in parts.hidden]
            able += [f"{h.count} heads of {h.module}" for h in parts.heads] + [
                f"the kernel of {k}" for k in parts.kernels
            ]
            able += ["the whole unit"] * parts.unit.residual
            why = f"; not {'; '.join(parts.reasons)}" if parts.reasons else ""
            lines.append(f"{parts.unit.name}: {', '.join(able) or 'nothing'}{why}")
        return "\n".join(lines)


def plan(model: nn.Module, example: Any, recalibrate: Iterable[Any] | None = None) -> Plan:
    """Find the units of a trained model that can be made smaller or be left out; the model itself is not changed.

    The plan shares the memory of the model's weights, so the model must not be trained while the plan and its supernets are in
    use; networks that they return have weights of their own.

    Args:
        model: any module whose residual units run once each: CNNs of residual blocks, transformers.
        example: a batch as the model takes it: a tensor, a tuple of arguments, or a mapping of arguments by name.
        recalibrate: batches on which the statistics of the model's batch norms are estimated anew first, as for images of
            another size than those that it was trained on.

    Raises:
        InputError: a model that does not run on the example, quantised weights, no unit found, weights or outputs that are not
            finite, tensors of `torch.inference_mode`, which have no gradients.
    """
    model = unwrapped(model)
    _check(model, example)
    weights = {id(p): nn.Parameter(p.detach(), p.requires_grad) for p in model.parameters()}
    model = copy_module(model, weights, where="compress").eval()
    call = example_of(Call.of(example, model))
    devices = {str(x.device) for x in (*model.parameters(), *call.tensors)}
    if len(devices) > 1:
        raise InputError(
            f"[compress] expected the model and the example on one device, got {' and '.join(sorted(devices))}"
        )
    if recalibrate is not None:
        estimate(model, [Call.of(batch, model) for batch in recalibrate])
    units = find_units(model, call)
    with torch.no_grad():
        outputs = [x for x in tree_leaves(call(model)) if isinstance(x, Tensor) and x.is_floating_point()]
    if not all(x.isfinite().all() for x in outputs):
        raise InputError("[compress] expected finite outputs on the example, got infinite ones or NaN")
    return Plan(model, call, [Parts.of(unit) for unit in units])


def _check(model: nn.Module, example: Any) -> None:
    """Raise InputError unless a model is one of Python code with finite weights in floating point, outside of inference mode."""
    if not isinstance(model, nn.Module) or isinstance(model, torch.jit.ScriptModule):
        raise InputError(f"[compress] expected a torch.nn.Module of Python code, got {type(model).__name__}")
    tensors = (*model.parameters(), *model.buffers(), *Call.of(example, model).tensors)
    if torch.is_inference_mode_enabled() or any(x.is_inference() for x in tensors):
        raise InputError("[compress] expected a model, batches and a call outside of torch.inference_mode, got one inside; take "
                         "torch.no_grad")  # fmt: skip
    quantised = {name for name, value in model.named_parameters() if not value.is_floating_point()}
    for name, value in model.state_dict().items():
        quantised |= {name for leaf in tree_leaves(value) if isinstance(leaf, Tensor) and leaf.is_quantized}
    if quantised:
        raise InputError(
            f"[compress] expected weights with floating points, got quantised ones in {min(quantised)}; compress first"
        )
    for name, value in model.named_parameters():
        if not value.is_meta and not value.isfinite().all():
            raise InputError(f"[compress] expected finite weights, got infinite ones or NaN in {name}")


def _blocks(parts: Sequence[Parts], cuts: Sequence[list[Cut]], paths: int) -> Iterator[list[tuple[Parts, list[Cut]]]]:
    """Group consecutive units into blocks of at most so many paths."""
    block: list[tuple[Parts, list[Cut]]] = []
    for part, some in zip(parts, cuts):
        size = math.prod(len(others) for _, others in block) * len(some)
        if block and (not part.unit.follows or size > paths):
            yield block
            block = []
        block.append((part, some))
    if block:
        yield block
