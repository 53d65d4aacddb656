"""Batch norm of layers with what follows it, the residual and the activation; in training one kernel does all of it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from pynas.errors import InputError
from pynas.nn.convolution import convolve
from pynas.nn.hooks import hooked
from pynas.ops import _library as native
from pynas.ops import path_batch_norm

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "silu": nn.SiLU}
_NAMES: dict[Any, str | None] = {type(None): None, nn.ReLU: "relu", nn.SiLU: "silu", F.relu: "relu", F.silu: "silu"}
Activation = Callable[[Tensor], Tensor]
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
# Bytes of an input from which the kernel is faster than torch's operators one by one: below, Python's part of the call counts.
_LEAST_BYTES = {"cpu": 2**17, "cuda": 2**24}


class NormSequential(nn.Sequential):
    """Modules one after the other, each batch norm together with the ReLU or SiLU after it (`batch_norm_act`)."""

    def forward(self, x: Tensor, residual: Tensor | None = None, paths: int = 1) -> Tensor:
        """x: input of the first module. residual: added to the output of the batch norm, of which there is one, before its
        activation. paths: x holds the rows of this many paths, of which batch norms keep the statistics apart."""
        parts = list(self._modules.values())
        while parts:
            part = parts.pop(0)
            if isinstance(part, _BatchNorm):
                act = parts.pop(0) if parts and type(parts[0]) in _NAMES else None
                x = batch_norm_act(part, x, act, residual, paths=paths)
            else:
                x = convolve(part, x) if isinstance(part, nn.Conv2d) else part(x)  # type: ignore[misc]
        return x


def conv_bn(
    in_channels: int,
    out_channels: int,
    kernel: int = 1,
    stride: int = 1,
    groups: int = 1,
    activation: str | None = "silu",
) -> NormSequential:
    """Build a convolution `conv` without bias that keeps the size at stride 1, batch norm `bn`, and an activation `act`.

    activation: of `ACTIVATIONS`, or None for none.
    """
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    parts["conv"] = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False)
    parts["bn"] = nn.BatchNorm2d(out_channels)
    if activation is not None:
        parts["act"] = ACTIVATIONS[activation](inplace=True)
    return NormSequential(parts)


def batch_norm_act(
    norm: Any,
    x: Tensor,
    act: Activation | None = None,
    residual: Tensor | None = None,
    leading: bool = False,
    paths: int = 1,
) -> Tensor:
    """Return act(norm(x) + residual), x `[B, C, ...]`; the residual and the activation may be None.

    In training one kernel (`pynas.ops.path_batch_norm`) does all of it, forward and backward, with the results and the
    running averages of the modules to rounding: where `norm` is torch's batch norm with float32 weights, `act` torch's ReLU
    or SiLU (module or function) or None, x a large enough tensor, and nothing watches the modules or torch's operators
    (hooks, a forward of its own, torch.compile, torch.export, functorch). Else the modules run.

    leading: x has fewer channels than the norm, whose leading weights and statistics are used, as elastic layers share them. The
        statistics are then averages over many subnets: re-estimate them in an extracted one (`export.recalibrate`).
    paths: x is `[P*B, C, ...]`, B rows of each of this many paths in turn. Batch statistics are those of each path, and the
        running averages move once for each, as if the paths came one after the other.
    """
    if norm.training and _fits(norm, x, act, residual, paths) and (leading or x.shape[1] == norm.num_features):
        return _train(norm, x, _NAMES[_kind(act)], residual, paths)
    if paths > 1 and (norm.training or norm.running_mean is None):
        residuals = [None] * paths if residual is None else residual.chunk(paths)
        parts = zip(x.chunk(paths), residuals)
        return torch.cat([batch_norm_act(norm, part, act, added, leading) for part, added in parts])
    y = _leading(norm, x) if leading else norm(x)
    if residual is not None:
        y = y + residual
    return y if act is None else act(y)


def _leading(norm: Any, x: Tensor) -> Tensor:
    if "forward" in vars(norm):  # a rating's, with statistics of each path
        return norm.forward(x, leading=True)
    if norm.training and isinstance(norm, nn.SyncBatchNorm):
        raise InputError("[fit] expected batch norms that every subnet uses whole for sync_batch_norm, got one whose leading "
                         "channels a subnet uses; leave it out")  # fmt: skip
    c = x.shape[1]
    mean, var, momentum = _averages(norm, c)
    if not norm.training:
        mean, var = norm.running_mean[:c], norm.running_var[:c]
    return F.batch_norm(x, mean, var, norm.weight[:c], norm.bias[:c], norm.training, momentum, norm.eps)


def _train(norm: Any, x: Tensor, activation: str | None, residual: Tensor | None, paths: int) -> Tensor:
    """Run the kernel with as many of the norm's channels as x has."""
    norm._check_input_dim(x)  # torch's error for an x of other axes
    c = x.shape[1]
    weight, bias = norm.weight, norm.bias
    if weight is not None and len(weight) != c:
        weight, bias = weight[:c], bias[:c]
    if paths > 1:
        y, means, variances = path_batch_norm(x, paths, weight, bias, norm.eps, activation, residual)
        _move_averages(norm, means, variances, x.numel() // (paths * c))
        return y
    mean, var, momentum = _averages(norm, c)
    return path_batch_norm(x, 1, weight, bias, norm.eps, activation, residual,
                           running_mean=mean, running_var=var, momentum=momentum)[0]  # fmt: skip


def _move_averages(norm: Any, means: Tensor, variances: Tensor, count: int) -> None:
    """Move the running averages to each path's statistics `[P, C]` over `count` values in turn."""
    for mean, var in zip(means, variances * (count / (count - 1))):
        averages = _averages(norm, len(mean))
        for average, value in zip(averages[:2], (mean, var)):
            if average is not None:
                average.lerp_(value, averages[2])


def _averages(norm: Any, c: int) -> tuple[Tensor | None, Tensor | None, float]:
    """Count a batch of the training; return the first c running averages, if any, and how far they go to the batch's.

    torch's rule: without a momentum they are means over all batches.
    """
    if not norm.training or not norm.track_running_stats or norm.running_mean is None:
        return None, None, 0.0
    norm.num_batches_tracked.add_(1)
    momentum = 1 / norm.num_batches_tracked.item() if norm.momentum is None else norm.momentum
    mean, var = norm.running_mean, norm.running_var
    return (mean, var, momentum) if len(mean) == c else (mean[:c], var[:c], momentum)


def _fits(norm: Any, x: Tensor, act: Activation | None, residual: Tensor | None, paths: int) -> bool:
    """Whether the kernel may run in the place of the modules."""
    return (
        type(x) is Tensor
        and native.unwatched(x)
        and type(norm) in _NORMS
        and _kind(act) in _NAMES
        and x.dtype in native.FLOATING
        and x.numel() * x.element_size() >= _LEAST_BYTES.get(x.device.type, 2**62)
        and x.numel() >= 2 * paths * x.shape[1]
        and len(x) % paths == 0
        and 0 < x.shape[1] <= norm.num_features
        and all(t is None or t.dtype == native.accumulate_dtype(x.dtype) for t in (norm.weight, norm.running_mean))
        and (residual is None or (residual.dtype == x.dtype and residual.shape == x.shape and type(residual) is Tensor))
        and not hooked(norm)
        and not (isinstance(act, nn.Module) and hooked(act))
    )


def _kind(act: Activation | None) -> Any:
    """The class of a module, a function itself."""
    return type(act) if act is None or isinstance(act, nn.Module) else act
