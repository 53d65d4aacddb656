"""Stochastic depth of residual branches.

A module with a residual branch has an attribute `drop_path` (timm's name): None, or a module that runs on the branch's
output, as timm's `DropPath` while a network is retrained.
"""

from __future__ import annotations

from torch import Tensor, nn


def dropped(branch: Tensor, drop_path: nn.Module | None) -> Tensor:
    """Run `drop_path`, if any, on a branch's output `[B, ...]`."""
    return branch if drop_path is None else drop_path(branch)
