"""Functional rating: the rest of the teacher runs on a path's output, and its logits are scored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from pynas.errors import InputError
from pynas.methods.dna.projection import Projection
from pynas.teachers import Teacher

# "kl": KL(teacher || path) of the logits, without labels. "cross_entropy", "error": against the labels.
LOSSES = ("kl", "cross_entropy", "error")


def is_functional(loss: Any) -> bool:
    """Whether a loss is of the teacher's logits rather than a block's features."""
    return isinstance(loss, str) and loss in LOSSES


class Tail(nn.Module):
    """Part of the teacher after a tap: from a block's output `[B, C, H, W]` to the teacher's logits `[B, classes]`.

    Where the block's width C differs from the teacher's, the output is first multiplied by the transpose of the fixed
    projection W of the block's targets: W^T y. This inverts a widening exactly (W^T W = 1); after a narrowing it gives the
    teacher's feature without the directions that W left out, for every path alike. Batch norm uses stored statistics.

    Raises:
        InputError: a teacher with batch statistics or without logits, or information that passes by the tap.
    """

    def __init__(self, teacher: Teacher, tap: int, projection: Projection, image_shape: Sequence[int]) -> None:
        super().__init__()
        if teacher.norm != "running":
            raise InputError(
                f"[rate] expected a teacher with the norm 'running' for these losses, got {teacher.norm!r}; "
                "use teacher_norm='running'"
            )
        self.projection, self.rest = projection, teacher.tail(tap, image_shape)

    def forward(self, output: Tensor) -> Tensor:
        """output: [B, C, H, W] of the block -> [B, classes]."""
        return self.rest(self.projection.back(output))


def functional_target(loss: str, logits: Tensor | None, labels: Tensor) -> Tensor:
    """Return the target of a functional loss: the teacher's logits, or the labels.

    Raises:
        InputError: labels outside the teacher's classes.
    """
    assert logits is not None  # `Tail` refuses teachers without them
    if loss == "kl":
        return logits
    if int(labels.max()) >= logits.shape[1]:
        raise InputError(
            f"[rate] expected labels below {logits.shape[1]}, the teacher's classes, for the loss {loss!r}, "
            f"got {int(labels.max())}; use 'kl'"
        )
    return labels.to(logits.device)


def head_loss(output: Tensor, logits: Tensor | None, labels: Tensor) -> Tensor:
    """KL(teacher || student) of logits `[B, classes]`, mean over the batch; cross-entropy with the labels where the
    teacher has no logits for these classes (none at all, or another number)."""
    if logits is None or logits.shape != output.shape:
        return functional.cross_entropy(output, labels.to(output.device))
    return kl_divergence(output, logits)


def kl_divergence(output: Tensor, logits: Tensor) -> Tensor:
    """KL(teacher || student) of logits `[B, classes]`, mean over the batch."""
    student, teacher = functional.log_softmax(output, 1), functional.log_softmax(logits, 1)
    return functional.kl_div(student, teacher, log_target=True, reduction="batchmean")
