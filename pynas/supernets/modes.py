"""Device and modes of modules."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from pynas.copies import flat


def device_of(*modules: Any) -> torch.device:
    """Device of the first parameter or buffer of modules, or nested lists of modules; the CPU where they have none."""
    tensors = (t for module in flat(modules) for t in itertools.chain(module.parameters(), module.buffers()))
    return next((tensor.device for tensor in tensors), torch.device("cpu"))


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
