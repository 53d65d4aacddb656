"""The moving average of a network's weights: the mean teacher of BYOL and BossNAS."""

from __future__ import annotations

import copy
import math
from typing import TypeVar

import torch
from torch import nn

Module = TypeVar("Module", bound=nn.Module)


def ema_momentum(base: float, progress: float) -> float:
    """1 - (1 - base) (cos(pi progress) + 1) / 2: from `base` to 1 by a cosine, progress in [0, 1] (BYOL)."""
    return 1 - (1 - base) * (math.cos(math.pi * min(max(progress, 0.0), 1.0)) + 1) / 2


def frozen_copy(module: Module) -> Module:
    """A copy that gets no gradients; modules that are shared within it stay shared."""
    return copy.deepcopy(module).requires_grad_(False)


@torch.no_grad()
def update_ema(target: nn.Module | None, online: nn.Module | None, momentum: float) -> None:
    """target = momentum * target + (1 - momentum) * online, for each parameter that the target has (BossNAS, eq. 2).

    Batch-norm statistics are not averaged: both networks take those of their own batches.
    """
    if target is None or online is None:
        return
    weights = dict(online.named_parameters())
    names, averages = zip(*target.named_parameters()) if len(list(target.parameters())) else ((), ())
    torch._foreach_lerp_(list(averages), [weights[name].detach() for name in names], 1 - momentum)
