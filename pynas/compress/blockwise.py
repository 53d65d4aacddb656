"""Block-wise training of candidates: those of a unit share its weights as slices, and learn the model's features.

DNA's training (eq. 1 of the paper: a block gets the teacher's feature and learns the next one) with one random path a step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from pynas.calls import Call
from pynas.compress.cuts import Cut, Parts, Ranks
from pynas.compress.distil import Steps
from pynas.compress.net import UnitNet
from pynas.compress.pieces import Piece, captured, side_of
from pynas.copies import copy_module
from pynas.errors import InputError
from pynas.methods.schedule import warm_cosine
from pynas.train import Step, fit
from pynas.train.method import Method, backward


class SharedUnit(nn.Module):
    """Candidates of one unit on one set of weights, of which each takes slices; half precision is trained in float32.

    number: of the unit in its block. cuts: the candidates; those that are left out are not trained.
    """

    def __init__(self, parts: Parts, cuts: Sequence[Cut], ranks: Ranks, number: int) -> None:
        super().__init__()
        self.name = parts.unit.name
        self._pieces: list[tuple[nn.Module, dict[str, tuple[int, _Slices]]]] = [
            (Piece(parts.unit.module, parts.unit, number), {})  # in a list, so that its weights are not trained
        ]
        own = dict(parts.unit.module.named_parameters())
        self._types = [p.dtype for p in own.values()]
        precise = [p.detach().clone().to(torch.promote_types(p.dtype, torch.float32)) for p in own.values()]
        self.names, self.weights = list(own), nn.ParameterList(precise)
        for cut in cuts:
            if cut != Cut() and not cut.left_out:
                sizes = parts.sizes(cut)
                piece, slices = Piece(parts.cut(sizes, ranks), parts.unit, number), _slices(parts, sizes, ranks)
                for name, parameter in piece.named_parameters():
                    if name.removeprefix("module.") in slices:  # taken from the unit's weights in every run
                        parameter.data = parameter.new_zeros(()).expand(parameter.shape)
                self._pieces.append((piece, slices))

    @property
    def count(self) -> int:
        """Candidates that are trained, and the unit as it is."""
        return len(self._pieces)

    def forward(self, x: Tensor, side: Any, candidate: int) -> Tensor:
        """x: hidden feature `[B, ...]` -> that after a candidate; 0 is the unit as it is, which is not trained."""
        piece, slices = self._pieces[candidate]
        weights = {name: parameter.detach() for name, parameter in piece.named_parameters()}
        weights |= {f"module.{name}": part.of(self.weights[number]).to(self._types[number])
                    for name, (number, part) in slices.items()}  # fmt: skip
        return functional_call(piece, weights, (x, side))

    def trained(self) -> dict[str, Tensor]:
        """Return the weights by their names in the unit."""
        named = zip(self.names, self.weights, self._types)
        return {name: weight.detach().clone().to(kind) for name, weight, kind in named}


class _Slices:
    """Elements of a weight that a smaller one has: one tensor of positions for each axis, or of all elements, flat."""

    def __init__(self, shape: torch.Size, whole: torch.Size, elements: Tensor) -> None:
        self._shape, self._axes, self._flat = shape, list[tuple[int, Tensor]](), None
        if len(shape) == len(whole):
            places = torch.unravel_index(elements.view(shape), whole)
            axes = [place.movedim(axis, 0).reshape(place.shape[axis], -1)[:, 0] for axis, place in enumerate(places)]
            if all(place.equal(x.view(-1, *[1] * (len(shape) - 1 - axis)).expand(shape))
                   for axis, (place, x) in enumerate(zip(places, axes))):  # fmt: skip
                self._axes = [(axis, x) for axis, x in enumerate(axes) if len(x) < whole[axis]]
                return
        self._flat = elements.int()

    def of(self, weight: Tensor) -> Tensor:
        """Return the elements of a weight."""
        if self._flat is not None:
            return weight.flatten().index_select(0, self._flat).view(self._shape)
        for axis, positions in self._axes:
            weight = weight.index_select(axis, positions)
        return weight


@torch.no_grad()
def _slices(parts: Parts, sizes: Mapping[str, int], ranks: Ranks) -> dict[str, tuple[int, _Slices]]:
    """Find which elements of the unit's weights each weight of a smaller copy has: cut a copy whose weights are their numbers.

    Returns, by the name of the weight, the number of the unit's weight and its slices.
    """
    own = list(parts.unit.module.parameters())
    starts = np.cumsum([1, *(p.numel() for p in own)])
    base = min(int(2 / torch.finfo(p.dtype).eps) for p in own)  # all whole numbers below are exact
    numbers: dict[str, Tensor] = {}
    for digit in range(math.ceil(math.log(int(starts[-1]), base))):
        numbered = copy_module(parts.unit.module, where="compress")
        for parameter, start in zip(numbered.parameters(), starts):
            every = torch.arange(int(start), int(start) + parameter.numel(), device=parameter.device)
            parameter.copy_((every // base**digit % base).view(parameter.shape))
        cut = replace(parts, unit=replace(parts.unit, module=numbered)).cut(sizes, ranks)
        for name, parameter in cut.named_parameters():
            numbers[name] = numbers.get(name, 0) + parameter.flatten().long() * base**digit
    shapes, found = {name: parameter.shape for name, parameter in cut.named_parameters()}, {}
    for name, elements in numbers.items():
        number = int(np.searchsorted(starts, int(elements[0]), side="right")) - 1
        if number >= 0:  # else it is not of the unit, as a new bias of 0
            found[name] = number, _Slices(shapes[name], own[number].shape, elements - int(starts[number]))
    return found


class BlockTraining(nn.Module, Method):
    """Training of the candidates of all blocks, each block on the model's own features.

    In every step one random path of each block runs on the model's feature before the block, and learns the feature after
    it by the relative L1 loss (DNA, eq. 7). Batch norm keeps the model's statistics; dropout stays off.
    """

    def __init__(self, net: UnitNet, learning_rate: float = 3e-4, warmup: float = 0.05) -> None:
        super().__init__()
        self._units, self._learning_rate, self._warmup = net, learning_rate, warmup
        self.net = nn.ModuleList(
            nn.ModuleList(SharedUnit(parts, cuts, ranks, number) for number, ((parts, cuts), ranks) in enumerate(block))
            for block in ([*zip(block, net.ranks(b))] for b, block in enumerate(net.blocks))
        )

    def optimizer(self) -> torch.optim.Optimizer:
        """Return AdamW without weight decay."""
        return torch.optim.AdamW(self.net.parameters(), self._learning_rate, weight_decay=0.0, fused=True)

    def rate_factor(self, progress: float, epochs: int) -> float:
        """Return the factor of a linear warm-up and a cosine to 0."""
        return warm_cosine(progress, epochs, self._warmup * epochs)

    def training_step(self, images: Call, labels: Tensor, rng: np.random.Generator) -> Mapping[str, Tensor]:
        """Add the gradients of one path of each block; images: a call of the model; labels are not used."""
        model, blocks = self._units.model, [[parts.unit for parts, _ in block] for block in self._units.blocks]
        call = images.to(self._units.call.tensors[0].device)
        every = [unit for units in blocks for unit in units]
        calls, targets, _ = captured(model, every, call, ends=[units[-1] for units in blocks])
        waiting, losses, kept = iter(calls), [], call.attended
        for units, shared, target in zip(blocks, self.net, targets):
            own = [next(waiting) for _ in units]
            x, side = units[0].feature(own[0]), side_of(own, units, None)
            for unit in shared:  # type: ignore[attr-defined]
                x = unit(x, side, int(rng.integers(unit.count)))
            if kept is not None and x.shape[:2] == kept.shape:
                x, target = x[kept], target[kept]
            loss = (x - target).abs().mean() / target.std().clamp_min(1e-12)
            backward(loss, reduce=self.reduce)
            losses.append(loss.detach())
        return {"relative_l1": torch.stack(losses).mean()}

    def trained(self) -> dict[str, dict[str, Tensor]]:
        """Return the trained weights of each unit, by its name."""
        return {unit.name: unit.trained() for block in self.net for unit in block}  # type: ignore[attr-defined]


def train_units(
    net: UnitNet,
    batches: Sequence[Any],
    steps: int,
    *,
    learning_rate: float = 3e-4,
    run: str | Path | None = None,
    seed: int = 0,
    on_step: Callable[[Step], None] | None = None,
) -> None:
    """Train the candidates of a supernet block by block (`BlockTraining`); from then on the supernet makes them from these weights.

    Layers that read fewer channels are refitted afterwards as before; the model itself and the units as they are do not change.

    batches: as the model takes them; labels are not used. run: folder of checkpoints, from which a training that was stopped
    goes on.

    Raises:
        InputError: no batch. FloatingPointError: a loss is not finite.
    """
    if not batches:
        raise InputError("[compress] expected at least one batch to train units on, got none")
    method = BlockTraining(net, learning_rate)
    calls = [Call.of(batch, net.model) for batch in batches]
    fit(method, Steps(calls, steps, seed), 1, run, seed=seed, on_step=on_step)
    net.use_weights(method.trained())
