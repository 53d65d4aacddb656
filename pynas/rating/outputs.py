"""Comparison of the outputs of two ways to run a module."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# Largest difference of two runs of one path, relative to the output's largest value: kernels may sum in another order, while
# a module that mixes paths differs by the size of its output.
_SAME = {torch.float64: 1e-6, torch.float32: 1e-3}
_SAME_HALF = 5e-2


def same_outputs(some: Sequence[Tensor], others: Sequence[Tensor]) -> bool:
    """Whether two lists of outputs are equal up to rounding."""
    return len(some) == len(others) and all(same_output(a, b) for a, b in zip(some, others))


def same_output(a: Tensor, b: Tensor) -> bool:
    """Whether two outputs are equal up to rounding."""
    if not isinstance(a, Tensor) or not isinstance(b, Tensor) or a.shape != b.shape:
        return False
    return not a.numel() or bool((a - b).abs().max() <= _SAME.get(a.dtype, _SAME_HALF) * b.abs().max())
