"""Context managers that evaluate a module, and restore its modes and device."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


@contextlib.contextmanager
def evaluating(module: nn.Module | None, device: torch.device | None = None) -> Iterator[None]:
    """Hold a module in evaluation mode, and on `device` where one is given; do nothing for None.

    The mode of every submodule is restored, since `module.train()` would set all of them.
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
    """Hold a module in evaluation mode with batch norms that use the batch's statistics and keep their running ones."""
    with evaluating(module):
        norms = [part for part in module.modules() if isinstance(part, _BatchNorm) and part.track_running_stats]
        for norm in norms:
            norm.training, norm.track_running_stats = True, False
        try:
            yield
        finally:
            for norm in norms:
                norm.track_running_stats = True
