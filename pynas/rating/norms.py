"""Batch norm per path: statistics within the rows of each stacked path.

Stacked paths lie path-major on the batch axis: rows g*B..g*B+B-1 belong to path g.
"""

from __future__ import annotations

import copy
import threading
import weakref
from collections.abc import Hashable, Iterator, Sequence
from itertools import zip_longest
from typing import Any

import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pynas.errors import InputError
from pynas.ops.path_batch_norm import path_batch_norm
from pynas.rating.sides import Arguments, Sides, arguments

MODES = ("running", "batch", "recalibrate")

# Inputs that pass the tree in one walk, each `[G*B_i, ...]`: calibration batches first, then data.
Streams = list[Tensor]
Statistics = tuple[Tensor, Tensor]


class PathContext(threading.local):
    """State that the modules of a rating share while they run, one per thread: stacked paths, and the stream in turn.

    calibration: number of streams that are calibration batches. A norm that is re-estimated records the statistics of each,
    and normalises the data streams by their mean. sides: side inputs of the streams, which all threads share.
    """

    def __init__(self, calibration: int = 0, sides: Sides | None = None) -> None:
        self.paths, self.sides = 1, Sides() if sides is None else sides
        self.calibrating = False
        self._calibration = calibration
        self._recorded: dict[Hashable, list[Statistics]] = {}

    def __deepcopy__(self, memo: dict[int, object]) -> PathContext:
        return self  # copies of a module share the context

    def turns(self, streams: Streams, paths: int, sides: Sequence[Any] | None = None) -> Iterator[Arguments]:
        """Yield a module's arguments for each stream in turn, `(x,)` or `(x, side)`, after forgetting recorded statistics.

        sides: what to give in place of `self.sides`, one per stream.
        """
        self.paths = paths
        self._recorded.clear()
        sides = self.sides.stacked(paths) if sides is None else sides
        for index, (x, side) in enumerate(zip_longest(streams, sides)):
            self.calibrating = index < self._calibration
            yield arguments(x, side)

    def record(self, norm: Hashable, statistics: Statistics) -> None:
        """Keep the mean and variance `[G, C]` of one calibration batch; norm: key of the norm that they belong to."""
        self._recorded.setdefault(norm, []).append(statistics)

    def recorded(self, norm: Hashable) -> Statistics:
        """Mean of the statistics over the calibration batches, as torch's cumulative average (momentum=None)."""
        seen = self._recorded[norm]
        if len(seen) > 1:
            seen[:] = [tuple(torch.stack(values).mean(0) for values in zip(*seen))]  # type: ignore[list-item]
        return seen[0]


def normalise(
    context: PathContext,
    mode: str,
    norm: Hashable,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    activation: str | None = None,
    residual: Tensor | None = None,
    in_place: bool = False,
) -> Tensor:
    """Normalise by the statistics of each path, add the residual and activate in one pass.

    mode: "batch", or "recalibrate", which records the statistics of calibration batches under the key `norm` and uses
        their mean for the data. in_place: write the result over `x`.

    Raises:
        InputError: a batch of one value per channel.
    """
    mean = var = None
    paths = context.paths
    calibrating = mode == "recalibrate" and context.calibrating
    if mode == "recalibrate" and not calibrating:
        mean, var = context.recorded(norm)
    elif x.numel() < 2 * x.shape[1] * paths:
        raise InputError(
            "[rate] expected more than one value per channel for batch statistics, "
            f"got {tuple(x.shape)} with {paths} path(s); use larger batches or norm='running'"
        )
    out = x if in_place else None
    y, mean, var = path_batch_norm(x, paths, weight, bias, eps, activation, residual, mean=mean, var=var, out=out)
    if calibrating:
        count = x.numel() // (x.shape[1] * paths)
        context.record(norm, (mean, var * (count / (count - 1))))
    return y


class PathNorm:
    """Replaces a batch norm's forward; each path is normalised by statistics of its own.

    mode: "running" (stored statistics), "batch" (of the batch) or "recalibrate" (of the calibration batches); a norm
        without stored statistics always uses those of the batch.
    """

    def __init__(self, norm: _BatchNorm, context: PathContext, mode: str) -> None:
        # Without a cycle of references, the copies' memory is free as soon as a rating ends.
        self._norm, self._context = weakref.ref(norm), context
        self._mode = "batch" if norm.running_mean is None else mode

    def of_copy(self, norm: _BatchNorm) -> PathNorm:
        """Forward of a copy of the norm."""
        copied = PathNorm.__new__(PathNorm)
        copied._norm, copied._context, copied._mode = weakref.ref(norm), self._context, self._mode
        return copied

    def __deepcopy__(self, memo: dict[int, Any]) -> PathNorm:
        return self.of_copy(copy.deepcopy(self.norm, memo))

    @property
    def norm(self) -> _BatchNorm:
        """The batch norm."""
        return self._norm()  # type: ignore[return-value]

    def __call__(self, x: Tensor, leading: bool = False) -> Tensor:
        """Normalise; leading: with the leading weights, where x has fewer channels, as elastic layers do."""
        y, norm = self.apply(x, channels=x.shape[1] if leading else None), self.norm
        return norm.act(norm.drop(y)) if isinstance(norm, BatchNormAct2d) else y

    def apply(
        self,
        x: Tensor,
        activation: str | None = None,
        residual: Tensor | None = None,
        in_place: bool = False,
        channels: int | None = None,
    ) -> Tensor:
        """Normalise, add the residual and activate in one pass; in_place: write the result over `x`."""
        norm = self.norm
        weight, bias = (None if part is None else part[:channels] for part in (norm.weight, norm.bias))
        if self._mode != "running":
            return normalise(self._context, self._mode, norm, x, weight, bias, norm.eps, activation, residual, in_place)
        mean, var = norm.running_mean[None, :channels], norm.running_var[None, :channels]  # type: ignore[index]
        out = x if in_place else None
        return path_batch_norm(x, 1, weight, bias, norm.eps, activation, residual, mean=mean, var=var, out=out)[0]


def install(modules: Sequence[nn.Module], mode: str, context: PathContext) -> None:
    """Put private copies in evaluation mode, and give every batch norm in them the forward of a norm mode.

    A batch norm with a forward of its own stays as it is for "running", and is put in training mode otherwise: where it calls
    `F.batch_norm`, `function_calls` gives it the statistics of each path; else the engine finds that it mixes paths.

    Raises:
        InputError: an unknown mode.
    """
    if mode not in MODES:
        raise InputError(f"[rate] expected norm to be one of {', '.join(MODES)}, got {mode!r}")
    seen, own_forwards = set[nn.Module](), list[_BatchNorm]()
    for module in modules:
        parts = [part for _, part in module.named_modules(seen)]
        if len(parts) > 1:
            module.eval()
        elif parts and module.training:  # what a wrapper holds is in evaluation mode already
            module.training = False
        for part in parts:
            if isinstance(part, _BatchNorm) and type(part).forward in _KNOWN_FORWARDS:
                part.forward = PathNorm(part, context, mode)  # type: ignore
            elif isinstance(part, _BatchNorm) and mode != "running":
                own_forwards.append(part)
    for part in own_forwards:
        part.train()


_KNOWN_FORWARDS = (_BatchNorm.forward, nn.SyncBatchNorm.forward, BatchNormAct2d.forward)
