"""Normalisation that mixes samples, made per path.

Stacked paths lie path-major on the batch axis: rows g*B..g*B+B-1 belong to path g. A batch norm that uses the batch's
statistics must take them within each path's rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from pynas.errors import InputError

MODES = ("running", "batch", "recalibrate")

# Inputs that travel down the tree together, each `[G*B_i, ...]`: calibration batches first, then data.
Streams = list[Tensor]
Statistics = tuple[Tensor, Tensor]


class PathContext:
    """What the modules of a rating share while they run: the number of stacked paths, and whose turn it is.

    calibration: how many of the streams are calibration batches. A norm that is re-estimated records their statistics
    in turn, and normalises the data streams by the mean of them.
    """

    def __init__(self, calibration: int = 0) -> None:
        self.paths = 1
        self.calibrating = False
        self._calibration = calibration
        self._recorded: dict[_BatchNorm, list[Statistics]] = {}

    def turns(self, streams: Streams, paths: int) -> Iterator[Tensor]:
        """The streams in turn; statistics recorded before are forgotten."""
        self.paths = paths
        self._recorded.clear()
        for index, x in enumerate(streams):
            self.calibrating = index < self._calibration
            yield x

    def record(self, norm: _BatchNorm, statistics: Statistics) -> None:
        """Remember the mean and variance `[G, C]` of one calibration batch."""
        self._recorded.setdefault(norm, []).append(statistics)

    def recorded(self, norm: _BatchNorm) -> Statistics:
        """The mean over the calibration batches, as torch's cumulative average (momentum=None) gives it."""
        seen = self._recorded[norm]
        if len(seen) > 1:
            seen[:] = [tuple(torch.stack(values).mean(0) for values in zip(*seen))]  # type: ignore[list-item]
        return seen[0]


class PathNorm:
    """Stands in for a batch norm's forward: statistics of each path's rows, its own or its calibration batches'."""

    def __init__(self, norm: _BatchNorm, context: PathContext, recalibrate: bool) -> None:
        self._norm, self._context, self._recalibrate = norm, context, recalibrate

    def __call__(self, x: Tensor) -> Tensor:
        norm, context = self._norm, self._context
        if self._recalibrate and not context.calibrating:
            y = normalize(x, context.paths, *context.recorded(norm), norm)
        else:
            count = x.numel() // max(x.shape[1] * context.paths, 1)
            if count < 2:
                raise InputError(
                    "[rate] expected more than one value per channel for batch statistics, "
                    f"got {tuple(x.shape)} with {context.paths} path(s); use larger batches or norm='running'"
                )
            y, mean, variance = path_batch_norm(x, context.paths, norm.weight, norm.bias, norm.eps)
            if self._recalibrate:
                context.record(norm, (mean, variance * (count / (count - 1))))
        return norm.act(norm.drop(y)) if isinstance(norm, BatchNormAct2d) else y


def path_batch_norm(
    x: Tensor, paths: int, weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Batch norm of `[G*B, C, ...]` with statistics per path, in plain torch; also mean and biased variance `[G, C]`."""
    by_path = x.unflatten(0, (paths, -1))
    axes = (1, *range(3, by_path.ndim))
    variance, mean = torch.var_mean(by_path.float(), axes, correction=0)
    if paths == 1:
        y = F.batch_norm(x, None, None, weight, bias, training=True, eps=eps)
    else:
        y = torch.cat([F.batch_norm(part, None, None, weight, bias, training=True, eps=eps) for part in x.chunk(paths)])
    return y, mean, variance


def normalize(x: Tensor, paths: int, mean: Tensor, variance: Tensor, norm: _BatchNorm) -> Tensor:
    """Normalise `[G*B, C, ...]` by given statistics `[G, C]`, then the norm's weight and bias."""
    if paths == 1:
        statistics = mean[0].to(norm_dtype(norm, x)), variance[0].to(norm_dtype(norm, x))
        return F.batch_norm(x, *statistics, norm.weight, norm.bias, training=False, eps=norm.eps)
    scale = (variance + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight
    shift = -mean * scale
    if norm.bias is not None:
        shift = shift + norm.bias
    shape = (paths, 1, -1, *[1] * (x.ndim - 2))
    by_path = x.unflatten(0, (paths, -1))
    return torch.addcmul(shift.to(x.dtype).view(shape), by_path, scale.to(x.dtype).view(shape)).flatten(0, 1)


def norm_dtype(norm: _BatchNorm, x: Tensor) -> torch.dtype:
    """The type of a norm's statistics: its weight's, or else the input's."""
    return x.dtype if norm.weight is None else norm.weight.dtype


def install(modules: Iterable[nn.Module], mode: str, context: PathContext) -> None:
    """Give every batch norm below `modules` the forward that the mode asks for (the modules must be private copies).

    A batch norm with a forward of its own is put in training mode for `batch`; the engine then runs it path by path.

    Raises:
        InputError: an unknown mode, or a batch norm with a forward of its own that cannot be re-estimated per path.
    """
    if mode not in MODES:
        raise InputError(f"[rate] expected norm to be one of {', '.join(MODES)}, got {mode!r}")
    for module in modules:
        for name, part in module.named_modules():
            if not isinstance(part, _BatchNorm) or (mode == "running" and part.running_mean is not None):
                continue
            if type(part).forward in _KNOWN_FORWARDS:
                part.forward = PathNorm(part, context, mode == "recalibrate")  # type: ignore
            elif mode == "recalibrate":
                raise InputError(
                    "[rate] expected a batch norm with a per-path form for norm='recalibrate', "
                    f"got {type(part).__name__} at {name or 'the top'} of {type(module).__name__}"
                )
            else:
                part.train()


_KNOWN_FORWARDS = (_BatchNorm.forward, nn.SyncBatchNorm.forward, BatchNormAct2d.forward)
