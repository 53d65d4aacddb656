"""Context managers that evaluate a module, and restore its modes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


@contextlib.contextmanager
def evaluating(module: nn.Module | None) -> Iterator[None]:
    """Hold a module in evaluation mode; do nothing for None.

    The mode of every submodule is restored, since `module.train()` would set all of them.
    """
    if module is None:
        yield
        return
    modes = [(part, part.training) for part in module.modules()]
    try:
        module.eval()
        yield
    finally:
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
