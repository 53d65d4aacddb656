"""Losses of stacked paths: from outputs `[G*B, ...]` of G paths and one target to one loss per path `[G]`."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from pynas.errors import InputError
from pynas.ops.path_distance import KINDS, path_distance

PathLoss = Callable[[Tensor, Any, int], Tensor]


def distance(kind: str) -> PathLoss:
    """Return `path_distance` of a kind: "relative_l1" (DNA eq. 7, over the deviation of the whole target), "mse", "cosine"."""
    return lambda outputs, target, paths: path_distance(outputs, target, kind)


def kl(outputs: Tensor, target: Tensor, paths: int) -> Tensor:
    """Mean over the samples of KL(teacher || path) between logits `[B, K]`, K > 1."""
    check_logits(target)
    teacher, path = target.log_softmax(-1), outputs.log_softmax(-1).unflatten(0, (paths, -1))
    return (teacher.exp() * (teacher - path)).flatten(2).sum(2).mean(1)


def check_logits(logits: Tensor) -> None:
    """Raise InputError for logits `[..., K]` of one class, whose probability is always 1."""
    if logits.shape[-1] < 2:
        raise InputError("[rate] expected logits of two classes or more for kl, got one output per sample; take mse")


def cross_entropy(outputs: Tensor, target: Tensor, paths: int) -> Tensor:
    """Mean over the samples of the cross-entropy of logits `[B, K]` with labels `[B]` or probabilities `[B, K]`."""
    repeated = target.repeat(paths, *[1] * (target.ndim - 1))
    return F.cross_entropy(outputs, repeated, reduction="none").unflatten(0, (paths, -1)).flatten(1).mean(1)


def error(outputs: Tensor, target: Tensor, paths: int) -> Tensor:
    """Share of samples whose largest logit is not at the label `[B]`."""
    return (outputs.argmax(1).unflatten(0, (paths, -1)) != target).flatten(1).double().mean(1)


def per_path(loss: Callable[[Tensor, Any], Tensor]) -> PathLoss:
    """Return the stacked form of `loss(output [B, ...], target) -> scalar`, which is called for each path in turn."""
    turn = threading.Lock()  # the user's function runs in one worker at a time

    def stacked(outputs: Tensor, target: Any, paths: int) -> Tensor:
        with turn:
            values = [
                torch.as_tensor(loss(y, target), device=outputs.device) for y in outputs.contiguous().chunk(paths)
            ]
        if any(value.numel() != 1 for value in values):
            raise InputError(f"[rate] expected a loss that returns one number, got the shape {tuple(values[0].shape)}")
        return torch.stack([value.detach().reshape(()) for value in values])

    return stacked


# Losses that compare elementwise: the target must have the output's shape.
_LIKE_OUTPUT: dict[str, PathLoss] = {**{kind: distance(kind) for kind in KINDS}, "kl": kl}
# Losses against labels.
LABELS: dict[str, PathLoss] = {"cross_entropy": cross_entropy, "error": error}
NAMES = (*_LIKE_OUTPUT, *LABELS)


def resolve(loss: str | Callable[[Tensor, Any], Tensor]) -> PathLoss:
    """Return the stacked form of a loss given by name or as a callable; a callable with a method `per_path` brings its own.

    Raises:
        InputError: an unknown name.
    """
    if hasattr(loss, "per_path"):
        return loss.per_path
    if callable(loss):
        return per_path(loss)
    if loss in _LIKE_OUTPUT:
        return _checked(_LIKE_OUTPUT[loss], labels=False)
    if loss in LABELS:
        return _checked(LABELS[loss], labels=True)
    raise InputError(f"[rate] expected loss to be a callable or one of {', '.join(NAMES)}, got {loss!r}")


def _checked(named: PathLoss, labels: bool) -> PathLoss:
    def checked(outputs: Tensor, target: Any, paths: int) -> Tensor:
        expected = (outputs.shape[0] // paths, *outputs.shape[1:])
        fits = isinstance(target, Tensor) and (
            tuple(target.shape) == expected or (labels and tuple(target.shape) == (expected[0], *expected[2:]))
        )
        if not fits:
            got = tuple(target.shape) if isinstance(target, Tensor) else type(target).__name__
            also = " (or labels without the second axis)" if labels else ""
            raise InputError(f"[rate] expected a target of the output's shape {expected}{also}, got {got}")
        if outputs.dtype in (torch.bfloat16, torch.float16):
            outputs = outputs.float()
        return named(outputs, target.to(outputs.dtype) if target.is_floating_point() else target, paths)

    return checked
