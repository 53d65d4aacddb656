"""Functional rating: the rest of the teacher runs on a path's output, and its logits are scored."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pynas.errors import InputError
from pynas.methods.dna.projection import Projection
from pynas.rating.copies import private_copy
from pynas.supernets import device_of
from pynas.teachers import Teacher

# "kl": KL(teacher || path) of the logits, without labels. "cross_entropy", "error": against the labels.
LOSSES = ("kl", "cross_entropy", "error")

_turn = threading.local()


def is_functional(loss: Any) -> bool:
    """Whether a loss is of the teacher's logits rather than a block's features."""
    return isinstance(loss, str) and loss in LOSSES


class Tail(nn.Module):
    """Part of the teacher after a tap: from a block's output `[B, C, H, W]` to the teacher's logits `[B, classes]`.

    Where the block's width C differs from the teacher's, the output is first multiplied by the transpose of the fixed
    projection W of the block's targets: W^T y. This inverts a widening exactly (W^T W = 1); after a narrowing it gives the
    teacher's feature without the directions that W left out, for every path alike.

    The part before the tap runs on two blank images, and its features are dropped; batch norm uses stored statistics.

    Raises:
        InputError: a teacher with batch statistics or without logits, or information that passes by the tap.
    """

    blank: Tensor

    def __init__(self, teacher: Teacher, tap: int, projection: Projection, image_shape: Sequence[int]) -> None:
        super().__init__()
        if teacher.norm != "running":
            raise InputError(
                f"[rate] expected a teacher with the norm 'running' for these losses, got {teacher.norm!r}; "
                "use teacher_norm='running'"
            )
        teacher.tail(tap, image_shape)  # checks that all information passes through the tap
        self.projection = projection
        # The copy shares the weights and keeps the hook, which replaces the tap's output by this thread's feature.
        self.module = private_copy(teacher.module)
        self.module.get_submodule(teacher.taps[tap]).register_forward_hook(_feature_of_turn)
        blank = torch.zeros((2, *image_shape), device=device_of(self.module))
        self.register_buffer("blank", blank, persistent=False)

    def forward(self, output: Tensor) -> Tensor:
        """output: [B, C, H, W] of the block -> [B, classes]."""
        _turn.feature = self.projection.back(output)
        try:
            return self.module(self.blank.to(output.dtype))
        finally:
            del _turn.feature


def _feature_of_turn(module: nn.Module, inputs: Any, output: Any) -> Tensor:
    return _turn.feature


def functional_target(loss: str, logits: Tensor | None, labels: Tensor) -> Tensor:
    """Return the target of a functional loss: the teacher's logits, or the labels.

    Raises:
        InputError: a teacher without logits, or labels outside its classes.
    """
    if logits is None:
        raise InputError(f"[rate] expected a teacher with logits for the loss {loss!r}, got one without")
    if loss == "kl":
        return logits
    if int(labels.max()) >= logits.shape[1]:
        raise InputError(
            f"[rate] expected labels below {logits.shape[1]}, the teacher's classes, for the loss {loss!r}, "
            f"got {int(labels.max())}; use 'kl'"
        )
    return labels.to(logits.device)
