"""Losses of stacked paths: outputs `[G*B, ...]` of G paths against one target, a loss per path `[G]`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from pynas.errors import InputError

PathLoss = Callable[[Tensor, Any, int], Tensor]


def relative_l1(outputs: Tensor, target: Tensor, paths: int) -> Tensor:
    """DNA eq. 7: mean |y - t| over the standard deviation (n - 1) of the batch's whole target tensor."""
    difference = (outputs.unflatten(0, (paths, -1)) - target).abs_()
    return difference.flatten(1).mean(1) / target.std()


def mse(outputs: Tensor, target: Tensor, paths: int) -> Tensor:
    """Mean squared difference."""
    return (outputs.unflatten(0, (paths, -1)) - target).square_().flatten(1).mean(1)


def cosine(outputs: Tensor, target: Tensor, paths: int) -> Tensor:
    """2 - 2 cos(y, t) of each sample's flattened features, the mean over samples."""
    similarity = F.cosine_similarity(outputs.unflatten(0, (paths, -1)).flatten(2), target.flatten(1), dim=-1)
    return (2 - 2 * similarity).mean(1)


def per_path(loss: Callable[[Tensor, Any], Tensor]) -> PathLoss:
    """A loss of one path's output, `loss(output [B, ...], target) -> scalar`, called for each path in turn."""

    def stacked(outputs: Tensor, target: Any, paths: int) -> Tensor:
        values = [torch.as_tensor(loss(output, target), device=outputs.device) for output in outputs.chunk(paths)]
        if any(value.numel() != 1 for value in values):
            raise InputError(f"[rate] expected a loss that gives one number, got the shape {tuple(values[0].shape)}")
        return torch.stack([value.detach().reshape(()) for value in values])

    return stacked


# Losses that compare features elementwise: the target must have the output's shape.
FEATURE_LOSSES: dict[str, PathLoss] = {"relative_l1": relative_l1, "mse": mse, "cosine": cosine}


def resolve(loss: str | Callable[[Tensor, Any], Tensor]) -> PathLoss:
    """The stacked form of a loss given by name or as a callable.

    Raises:
        InputError: an unknown name.
    """
    if callable(loss):
        return per_path(loss)
    if loss not in FEATURE_LOSSES:
        raise InputError(f"[rate] expected loss to be a callable or one of {', '.join(FEATURE_LOSSES)}, got {loss!r}")
    named = FEATURE_LOSSES[loss]

    def checked(outputs: Tensor, target: Any, paths: int) -> Tensor:
        expected = (outputs.shape[0] // paths, *outputs.shape[1:])
        if not isinstance(target, Tensor) or tuple(target.shape) != expected:
            got = tuple(target.shape) if isinstance(target, Tensor) else type(target).__name__
            raise InputError(f"[rate] expected a target of the output's shape {expected}, got {got}")
        return named(outputs.float(), target.float(), paths)

    return checked
