"""Evaluation for a while: the mode of every part, and the device, are put back."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


@contextlib.contextmanager
def evaluating(module: nn.Module | None, device: torch.device | None = None) -> Iterator[None]:
    """Have a module in evaluation mode, and on `device` where one is given; None is left alone.

    Modes are put back part by part, since `module.train()` would make them all alike.
    """
    if module is None:
        yield
        return
    modes = [(part, part.training) for part in module.modules()]
    home = next(module.parameters()).device if device is not None else None
    try:
        if device is not None:
            module.to(device)
        module.eval()
        yield
    finally:
        if home is not None:
            module.to(home)
        for part, mode in modes:
            part.training = mode


@contextlib.contextmanager
def batch_statistics(module: nn.Module) -> Iterator[None]:
    """Have every batch norm normalise by its batch, without a trace in the running statistics; the rest evaluates."""
    with evaluating(module):
        norms = [part for part in module.modules() if isinstance(part, _BatchNorm) and part.track_running_stats]
        for norm in norms:
            norm.training, norm.track_running_stats = True, False
        try:
            yield
        finally:
            for norm in norms:
                norm.track_running_stats = True
