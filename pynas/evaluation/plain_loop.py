"""Paths run alone, in the plain loop that a user would write: the reference that a check compares the engine with."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pynas.copies import copy_module
from pynas.errors import InputError
from pynas.evaluation.function_norms import FunctionNorms
from pynas.rating import losses
from pynas.rating.batches import Batch
from pynas.rating.state import RandomState
from pynas.rating.tree import Path


@dataclass(frozen=True)
class Step:
    """One layer's run on a path.

    sums: of the output's values and of their sizes, weighted by their places. seconds: time of the run. random: whether it drew
    random numbers.
    """

    sums: tuple[float, float]
    shape: tuple[int, ...]
    dtype: torch.dtype
    seconds: float
    random: bool

    def differs(self, other: Step, tolerance: float) -> bool:
        """Whether another run of the layer put out other values."""
        return self.shape != other.shape or not np.allclose(
            self.sums,
            other.sums,
            rtol=0,
            atol=tolerance * other.sums[1] if np.isfinite(other.sums[1]) else 0,
            equal_nan=True,
        )


class PlainLoop:
    """Runs one path after the other, each on fresh copies of its modules, from the random numbers of the beginning."""

    def __init__(
        self,
        layers: Sequence[Sequence[nn.Module]],
        tail: nn.Module | None,
        batches: Sequence[Batch],
        calibration: Sequence[Tensor],
        loss: str | Callable[[Tensor, Any], Tensor],
        random: RandomState,
    ) -> None:
        self._layers, self._tail, self._batches, self._calibration = layers, tail, batches, calibration
        self._random = random
        named = None if callable(loss) else losses.resolve(loss)
        self._loss = (lambda y, target: named(y, target, 1)) if named else loss

    def copies(self, path: Path) -> list[nn.Module]:
        """Copies of a path's modules in evaluation mode."""
        modules = copy_module([layer[choice] for layer, choice in zip(self._layers, path)], where="check")
        return [module.eval() for module in modules]

    @torch.no_grad()
    def score(self, path: Path, norm: str) -> tuple[float, float]:
        """Mean loss over the samples of all batches, and the seconds that it took without the copies."""
        modules = self.copies(path)
        norms = list(
            {id(part): part for module in modules for part in module.modules() if isinstance(part, _BatchNorm)}.values()
        )
        tail = [] if self._tail is None else [copy_module(self._tail, where="check").eval()]
        functions = FunctionNorms(modules, self.copies(path), self._batches[0][0].clone())
        self._random.restore()
        start = time.perf_counter()
        if norm == "recalibrate":
            re_estimate(modules, norms, functions, self._calibration)
        functions.train(norm == "batch")
        for part in norms:
            part.training = norm == "batch"
        total, samples = 0.0, 0
        for x, target, *_ in self._batches:
            total += float(self._loss(run([*modules, *tail], x), target)) * len(x)  # type: ignore[operator]
            samples += len(x)
        return total / samples, time.perf_counter() - start

    def restore(self) -> None:
        """Set the random numbers back to those of the beginning."""
        self._random.restore()

    def restored(self, modules: Sequence[nn.Module], x: Tensor) -> Tensor:
        """Output of modules, run from the random numbers of the beginning."""
        self._random.restore()
        return run(modules, x)

    @torch.no_grad()
    def trace(self, path: Path, modules: Sequence[nn.Module] | None = None) -> list[Step]:
        """Run a path on the first batch, with stored statistics, and describe the output of every layer.

        modules: what to run; None for fresh copies.
        """
        self._random.restore()
        x, steps = self._batches[0][0].clone(), []
        for module in modules or self.copies(path):
            drawn, start = RandomState(x.device), time.perf_counter()
            x = module(x)
            if not isinstance(x, Tensor):
                raise InputError(
                    f"[check] expected candidates that put out a tensor, got {type(x).__name__}; use `pick=`"
                )
            if x.is_cuda:
                torch.cuda.synchronize(x.device)
            seconds = time.perf_counter() - start
            steps.append(Step(_sums(x), tuple(x.shape[1:]), x.dtype, seconds, drawn.moved()))
        return steps


def run(modules: Sequence[nn.Module], x: Tensor) -> Tensor:
    """Output of modules one after the other; x stays as it is."""
    x = x.clone()
    for module in modules:
        x = module(x)
    return x


def re_estimate(
    modules: Sequence[nn.Module], norms: Sequence[_BatchNorm], functions: FunctionNorms, calibration: Sequence[Tensor]
) -> None:
    """Re-estimate the statistics of batch norms as the mean over the calibration batches (torch's momentum=None).

    Norms that keep no statistics stay as they are: they use those of each batch.
    """
    for norm in norms:
        if norm.running_mean is None:
            continue
        norm.reset_running_stats()
        norm.momentum, norm.training = None, True
    functions.train(True)
    for number, x in enumerate(calibration):
        with functions.averaging(number):
            run(modules, x)


def _sums(x: Tensor) -> tuple[float, float]:
    flat = x[:16].detach().flatten().double()  # of a few samples, for memory
    places = torch.linspace(1, 2, len(flat), dtype=torch.float64, device=x.device)
    return float(flat @ places), float(flat.abs() @ places)
