"""Normalisation that mixes samples, made per path.

Stacked paths lie path-major on the batch axis: rows g*B..g*B+B-1 belong to path g. A batch norm that uses the batch's
statistics must take them within each path's rows.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pynas.errors import InputError

MODES = ("running", "batch")


class PathContext:
    """What the modules of a rating share while they run: how many paths are stacked just now."""

    def __init__(self) -> None:
        self.paths = 1


class BatchStatistics:
    """Stands in for a batch norm's forward: normalise each path's rows by their own mean and variance."""

    def __init__(self, norm: _BatchNorm, context: PathContext) -> None:
        self._norm, self._context = norm, context

    def __call__(self, x: Tensor) -> Tensor:
        norm, paths = self._norm, self._context.paths
        if x.numel() // max(x.shape[1] * paths, 1) < 2:
            raise InputError(
                "[rate] expected more than one value per channel for batch statistics, "
                f"got {tuple(x.shape)} with {paths} path(s); use larger batches or norm='running'"
            )
        return path_batch_norm(x, paths, norm.weight, norm.bias, norm.eps)


def path_batch_norm(x: Tensor, paths: int, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """Batch norm of `[G*B, C, ...]` with statistics per path, in plain torch."""
    if paths == 1:
        return torch.nn.functional.batch_norm(x, None, None, weight, bias, training=True, eps=eps)
    pieces = x.chunk(paths)
    return torch.cat([path_batch_norm(piece, 1, weight, bias, eps) for piece in pieces])


def install(modules: Iterable[nn.Module], mode: str, context: PathContext) -> None:
    """Give every batch norm below `modules` the forward that the mode asks for (the modules must be private copies).

    Raises:
        InputError: an unknown mode, or a batch norm of a class of its own in a mode that needs its statistics per path.
    """
    if mode not in MODES:
        raise InputError(f"[rate] expected norm to be one of {', '.join(MODES)}, got {mode!r}")
    for module in modules:
        for name, part in module.named_modules():
            if isinstance(part, _BatchNorm) and (mode == "batch" or part.running_mean is None):
                if type(part).forward not in _KNOWN_FORWARDS:
                    raise InputError(
                        f"[rate] expected a batch norm with a per-path form for norm={mode!r}, "
                        f"got {type(part).__name__} at {name or 'the top'} of {type(module).__name__}"
                    )
                part.forward = BatchStatistics(part, context)  # type: ignore


_KNOWN_FORWARDS = (_BatchNorm.forward, nn.SyncBatchNorm.forward)
