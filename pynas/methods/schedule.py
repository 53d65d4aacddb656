"""Optimizer and learning-rate schedule of BYOL and the methods that build on it."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from timm.optim import Lars


def lars(
    parameters: Iterable[torch.nn.Parameter], rate: float, weight_decay: float, trust: float = 0.001
) -> torch.optim.Optimizer:
    """Return LARS with momentum 0.9; batch norm and biases have neither weight decay nor an adaptive rate (BYOL).

    trust: coefficient of the adaptive rate, rate * trust * |weights| / |gradient|.
    """
    once = list(dict.fromkeys(parameters))
    groups = [
        {"params": [p for p in once if p.ndim > 1], "weight_decay": weight_decay, "always_adapt": True},
        {"params": [p for p in once if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return Lars([group for group in groups if group["params"]], lr=rate, momentum=0.9, trust_coeff=trust)


def warm_cosine(progress: float, epochs: float, warmup: float = 0.0) -> float:
    """Factor of the base rate: a linear warm-up of `warmup` epochs (at most half of all), then a cosine to 0."""
    warmup = min(warmup, epochs / 2)
    if progress < warmup:
        return progress / warmup
    return (1 + math.cos(math.pi * (progress - warmup) / (epochs - warmup))) / 2
