"""Evaluation for a while: the mode of every part, and the device, are put back."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn


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
