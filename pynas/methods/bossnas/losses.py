"""Training losses of BossNAS's paths, ensemble bootstrapping and the ablations of table 5, and the heads they need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from pynas.errors import InputError
from pynas.methods.bossnas.heads import PathHead, Pool, mlp
from pynas.methods.ema import frozen_copy
from pynas.ops import ensemble_loss
from pynas.teachers import Teacher

BOOTSTRAPPED = ("ensemble", "naive")


def bootstrap_losses(online: Tensor, target: Tensor, kind: str, renormalize: bool) -> Tensor:
    """Loss of each path, `[P]`, of online and target vectors `[P, B, D]`.

    kind: "ensemble": distance to the mean of all targets (eq. 3-4); "naive": distance to the path's own target.
    """
    if kind == "ensemble":
        return ensemble_loss(online, target, renormalize=renormalize)
    return torch.cat([ensemble_loss(o, t) for o, t in zip(online.split(1), target.split(1))])


def supervised_losses(
    outputs: Tensor, teacher: Teacher | None, block: int, images: Sequence[Tensor], labels: Tensor
) -> Tensor:
    """Loss of each path, `[P]`, for its own view: cross-entropy of its logits `[P, B, classes]`.

    With a teacher: mean squared distance of its outputs `[P, B, D]` to the teacher's pooled features after the block.
    """
    if teacher is None:
        labels = labels.to(outputs.device)
        return torch.stack([functional.cross_entropy(logits, labels) for logits in outputs])
    return torch.stack([functional.mse_loss(y, pooled(teacher, block, x)) for y, x in zip(outputs, images)])


@torch.no_grad()
def pooled(teacher: Teacher | None, block: int, images: Tensor) -> Tensor:
    """Mean over space of the teacher's features after a block, [B, D]."""
    assert teacher is not None
    return Pool()(teacher(images)[block]).float()


def check_target(
    target: str, classes: int | None, teacher: Teacher | None, image_shape: tuple[int, int, int], blocks: int
) -> list[int] | None:
    """Return the output size of each block's head for a supervised target; None for the bootstrapped ones.

    Raises:
        InputError: no number of classes, or a teacher without a tap per block.
    """
    if target in BOOTSTRAPPED:
        return None
    if target == "classification":
        if classes is None or classes < 2:
            raise InputError(f"[bossnas] expected num_classes of at least 2 for target='classification', got {classes}")
        return [classes] * blocks
    if teacher is None:
        raise InputError("[bossnas] expected a teacher for target='distillation', got none")
    shapes = teacher.feature_shapes(image_shape)
    if len(shapes) != blocks:
        raise InputError(f"[bossnas] expected {blocks} taps, one per block, got {len(shapes)}")
    return [shape[0] for shape in shapes]


def build_heads(
    widths: Sequence[Mapping[int, int]], width: int | None, hidden: int, dim: int, outputs: Sequence[int] | None
) -> tuple[nn.ModuleList, nn.ModuleList]:
    """Return the blocks' heads in the online and in the averaged supernet (none for supervised targets).

    widths: of every block, each width with its stride, see `Fix`.

    Online: fix, mean over space, projector, predictor. Averaged: without the predictor (BYOL). Supervised: fix, mean over
    space, one linear map to `outputs`.
    """
    online, averaged = nn.ModuleList(), nn.ModuleList()
    for b, ends in enumerate(widths):
        common = width or max(ends)
        if outputs is not None:
            online.append(PathHead(ends, common, linear=nn.Linear(common, outputs[b])))
            continue
        head = PathHead(ends, common, projector=mlp(common, hidden, dim), predictor=mlp(dim, hidden, dim))
        online.append(head)
        averaged.append(frozen_copy(head))
        del averaged[b].top.predictor  # type: ignore[union-attr]
    return online, averaged
