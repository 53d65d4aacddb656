"""Moving average of a network's weights: the mean teacher of BYOL and BossNAS."""

from __future__ import annotations

import math
from typing import TypeVar

import torch
from torch import nn

from pynas.copies import copy_module

Module = TypeVar("Module", bound=nn.Module)


def ema_momentum(base: float, progress: float) -> float:
    """Momentum that rises from `base` to 1 by a cosine: 1 - (1 - base) (cos(pi progress) + 1) / 2 (BYOL)."""
    return 1 - (1 - base) * (math.cos(math.pi * min(max(progress, 0.0), 1.0)) + 1) / 2


def frozen_copy(module: Module) -> Module:
    """Copy a module without gradients; submodules shared within it stay shared."""
    return copy_module(module).requires_grad_(False)


@torch.no_grad()
def update_ema(target: nn.Module | None, online: nn.Module | None, momentum: float) -> None:
    """Set target = momentum * target + (1 - momentum) * online for each parameter of the target (BossNAS, eq. 2).

    Batch-norm statistics are not averaged: each network keeps those of its own batches.
    """
    if target is None or online is None:
        return
    weights, averages = dict(online.named_parameters()), dict(target.named_parameters())
    if averages:
        torch._foreach_lerp_(list(averages.values()), [weights[name].detach() for name in averages], 1 - momentum)
