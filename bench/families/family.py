"""One supernet of another project's style: its layers for `pynas.rate`, and its own way to run one path."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

import pynas
from pynas.rating import ScoreTable

Path = tuple[int, ...]

NORMS = ("running", "batch", "recalibrate")
LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "relative_l1": lambda y, target: (y - target).abs().mean() / target.std(),
    "cross_entropy": F.cross_entropy,
}


@dataclass(frozen=True)
class Family:
    """A supernet, some data, and the two ways to score its paths.

    module: holds all weights; `run(path, x)` runs one path of it as the project's own code does. layers: the candidates for
    `pynas.rate`.
    """

    name: str
    module: nn.Module
    layers: Sequence[Sequence[nn.Module]]
    run: Callable[[Path, Tensor], Tensor]
    batches: list[tuple[Tensor, Tensor]]
    calibration: list[Tensor]
    loss: str = "relative_l1"
    tail: nn.Module | None = None
    allowed: Callable[[Path], bool] | None = None

    def paths(self) -> list[Path]:
        """Return all paths, or those that are allowed."""
        rule = self.allowed or (lambda _: True)
        every = itertools.product(*(range(len(layer)) for layer in self.layers))
        return [path for path in every if all(rule(path[:end]) for end in range(1, len(path) + 1))]

    def rate(self, norm: str, **settings: Any) -> ScoreTable:
        """Rate the paths with pynas."""
        calibration = self.calibration if norm == "recalibrate" else None
        return pynas.rate(
            self.layers, self.batches, self.loss, norm, calibration=calibration, tail=self.tail, tail_norm=norm,
            allowed=self.allowed, **settings,
        )  # fmt: skip

    def alone(self, norm: str, paths: Iterable[Path] | None = None) -> dict[Path, float]:
        """Score each path alone: one after the other, all batches each, nothing shared."""
        with torch.no_grad(), restored(self.module) as norms:
            return {path: self._alone(path, norm, norms) for path in (self.paths() if paths is None else paths)}

    def _alone(self, path: Path, norm: str, norms: list[_BatchNorm]) -> float:
        if norm == "recalibrate":
            for part in norms:
                part.reset_running_stats()
                part.momentum = None
                part.train()
            for x in self.calibration:
                self.run(path, x)
        for part in norms:
            part.train(norm == "batch")
        losses = [LOSSES[self.loss](self.run(path, x), target).item() * len(x) for x, target in self.batches]
        return sum(losses) / sum(len(x) for x, _ in self.batches)


@contextmanager
def restored(module: nn.Module) -> Iterator[list[_BatchNorm]]:
    """Put a module in evaluation mode and give its batch norms; afterwards modes, momenta and buffers are as before."""
    modes = {part: part.training for part in module.modules()}
    norms = [part for part in modes if isinstance(part, _BatchNorm)]
    momenta = [part.momentum for part in norms]
    buffers = [(buffer, buffer.clone()) for buffer in module.buffers()]
    try:
        yield [part for part in module.eval().modules() if isinstance(part, _BatchNorm)]
    finally:
        for part, mode in modes.items():
            part.training = mode
        for part, momentum in zip(norms, momenta):
            part.momentum = momentum
        for buffer, value in buffers:
            buffer.copy_(value)


def family(
    name: str,
    module: nn.Module,
    layers: Sequence[Sequence[nn.Module]],
    run: Callable[[Path, Tensor], Tensor],
    shape: Sequence[int],
    sizes: Sequence[int],
    **rest: Any,
) -> Family:
    """Return a family with random norms, inputs of `shape` (no batch axis) in batches of these sizes, and targets that fit."""
    generator = torch.Generator().manual_seed(1)
    settle(module, generator)
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    made = Family(name, module, layers, run, [], [draw(2 * max(sizes), *shape) for _ in range(2)], **rest)
    for size in sizes:
        x = draw(size, *shape)
        with torch.no_grad(), restored(module):
            y = run(made.paths()[0], x)
        target = draw(*y.shape)
        made.batches.append((x, target.argmax(1) if made.loss == "cross_entropy" else target))
    return made


def settle(module: nn.Module, generator: torch.Generator) -> None:
    """Give every norm statistics and weights that are not the identity."""
    for part in module.modules():
        if not isinstance(part, (_BatchNorm, nn.LayerNorm)):
            continue
        pairs = [(part.weight, part.bias)]
        if isinstance(part, _BatchNorm):
            pairs.append((part.running_var, part.running_mean))
        for scale, shift in pairs:
            if scale is not None:
                nn.init.uniform_(scale, 0.5, 1.5, generator=generator)
                nn.init.normal_(shift, 0, 0.3, generator=generator)


def through(*chosen: Iterable[Callable[[Tensor], Tensor]]) -> Callable[[Tensor], Tensor]:
    """Return the function that runs modules one after the other."""

    def run(x: Tensor) -> Tensor:
        for part in itertools.chain.from_iterable(chosen):
            x = part(x)
        return x

    return run
