"""DNA++: teacher and supernet learn at the same time, without labels (Self-Supervised Learning, section 3.5)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pynas.checked import AtLeastOne, NonNegative, Positive, checked
from pynas.copies import copy_module
from pynas.errors import InputError
from pynas.methods.blocks import Batches, BlockBatches, Pair, rate_cells
from pynas.methods.dna.projection import Projection, check_one_shape, check_taps, fit_projections
from pynas.methods.dna.self_supervised_loss import SelfSupervisedLoss
from pynas.methods.sampling import uniform_path
from pynas.methods.schedule import lars, warm_cosine
from pynas.methods.views import place
from pynas.nn.batch_norm import NormSequential
from pynas.rating import Scores, ScoreTable
from pynas.spaces import Choice
from pynas.supernets import Supernet, evaluating
from pynas.supernets.modes import batch_statistics, device_of
from pynas.teachers import Teacher, as_teacher
from pynas.train.method import Method, backward, with_last


class DNAPlusPlus(nn.Module, Method):
    """Each block of the supernet and the teacher's block learn to agree about an image, each through an MLP of its own.

    Loss of a path of block k: `SelfSupervisedLoss` of the projections of S_k(Y'_{k-1}) and of Y_k, where Y_k are the
    teacher's features of one view of the images and Y' those of the other (eq. 10, 11). No labels, no moving average:
    the hinge of eq. 11 keeps the projections apart, so that the teacher may learn too, each of its blocks from that
    block's loss alone. Its architecture may be of another kind than the supernet's.

    The blocks agree in their projections, not in their features: a found network is retrained from scratch (its blocks
    are not trained on each other's outputs), and the supernet's head is not trained.

    net: the supernet. teacher: a `Teacher`, a timm name, or any nn.Module with `taps`; a copy of it is trained, from the
        weights it has (fresh ones, say of `timm_teacher(name, pretrained=False)`, make the search free of labels).
    channels: width of the MLPs' hidden layers and outputs. loss: other weights for eq. 10 and 11.
    learning_rate: LARS's starting rate for 256 images a step, scaled by `batch_size` / 256. The paper prints 0.0025 with LARS
        and 0.33 with AdamW; the two are taken to be swapped. Biases and norms get neither weight decay nor LARS's adaptation.
    batch_size: images per step of the optimizer (over all batches that `fit` accumulates).
    trust: LARS's coefficient. 0.001 suits trainings of a hundred thousand steps; a few hundred need more, say 0.03.
    warmup: epochs of linear warm-up before the cosine.

    Raises:
        InputError: taps that do not match the blocks in number or size, an option out of its range.
    """

    @checked("dna-pp")
    def __init__(
        self,
        net: Supernet,
        teacher: Teacher | nn.Module | str,
        *,
        taps: Sequence[str] | None = None,
        image_shape: tuple[int, int, int] | None = None,
        channels: AtLeastOne = 256,
        loss: SelfSupervisedLoss | None = None,
        batch_size: AtLeastOne = 256,
        learning_rate: Positive = 0.33,
        trust: Positive = 0.001,
        weight_decay: NonNegative = 1e-6,
        warmup: NonNegative = 0.0,
        projection_batches: AtLeastOne = 4,
    ):
        super().__init__()
        self.net = net
        fixed = as_teacher(teacher, taps)
        side = net.space.image_size
        self.image_shape = image_shape or (3, side, side)
        check_one_shape(net, "dna-pp")
        shapes = check_taps(fixed, net, self.image_shape)
        self.teacher = LearningTeacher(fixed)
        self.entries = nn.ModuleList(Projection(theirs[0], ours[0]) for theirs, ours in shapes)
        self.teacher_projectors = nn.ModuleList(projector(theirs[0], channels) for theirs, _ in shapes)
        self.projectors = nn.ModuleList(projector(ours[0], channels) for _, ours in shapes)
        self.loss = loss or SelfSupervisedLoss()
        self.learning_rate, self.trust = learning_rate * batch_size / 256, trust
        self.weight_decay, self.warmup = weight_decay, warmup
        self.projection_batches = projection_batches

    def prepare(self, batches: Batches) -> None:
        """Fit the fixed projections that bring the teacher's features to the input widths of the blocks."""
        with batch_statistics(self.teacher):
            fit_projections(self.entries, batches, self.projection_batches, lambda x: self.teacher(self.views(x)[0]))

    def optimizer(self) -> torch.optim.Optimizer:
        """Return LARS over the supernet without its head, the teacher and the MLPs."""
        head = set() if self.net.head is None else set(self.net.head.parameters())
        return lars([p for p in self.parameters() if p not in head], self.learning_rate, self.weight_decay, self.trust)

    def rate_factor(self, progress: float, epochs: int) -> float:
        """Return the factor of a linear warm-up, then a cosine down to 0."""
        return warm_cosine(progress, epochs, self.warmup)

    def training_step(self, images: Any, labels: Tensor, rng: np.random.Generator) -> dict[str, Tensor]:
        """Train all blocks of supernet and teacher on one batch; backward runs block by block.

        images: two views as the loaders give them (`views=2`), or one tensor for both nets. labels: not used.
        """
        first, second = self.views(images)
        targets = self.teacher(first)
        with torch.no_grad():
            features = self.teacher(second)
        losses = {}
        for (b, cells), last in with_last(enumerate(self.net.space.blocks)):
            x = self.net.enter(second) if b == 0 else self.entries[b - 1](features[b - 1])
            target = self.teacher_projectors[b](targets[b])
            loss = torch.zeros((), device=x.device)
            for c, cell in enumerate(cells):
                output = self.net.run_path(b, Choice(c, uniform_path(cell.counts, rng)), x)
                loss = loss + self.loss(self.projectors[b](output), target) / len(cells)
            backward(loss, reduce=self.reduce if last else None)
            losses[f"block_{b + 1}"] = loss.detach()
        return losses

    def rate(self, batches: Batches, **options: Any) -> Scores:
        """Rate every path of every block. options: as of `rate_block`."""
        return Scores(self.net.space, [self.rate_block(batches, b, **options) for b in range(len(self.net.space))])

    def rate_block(
        self,
        batches: Batches,
        block: int,
        *,
        loss: str | Callable[..., Tensor] = "self_supervised",
        norm: str = "batch",
        resume: str | Path | None = None,
        **options: Any,
    ) -> list[ScoreTable]:
        """Rate every path of a block by its projection against the teacher's; returns a table per cell.

        batches: yields (images, labels), the same batches each time it is iterated; images may be two views.
        loss: "self_supervised" (the training loss), or any loss of `pynas.rate`, on projections `[M, C]`.
        norm: of the supernet, the projectors and the teacher: "batch" or "running".
        resume: the partial rating of cell c is kept in `<resume>.cell_<c>` until the cell is done.
        options: for `pynas.rate`.
        """
        scored: Any = self.loss if loss == "self_supervised" else loss
        inputs = [self.block_batches(batches, block, norm)] * len(self.net.space.blocks[block])
        tail = self.projectors[block]
        return rate_cells(self.net, block, inputs, loss=scored, norm=norm, tail=tail, tail_norm=norm, resume=resume,
                          **options)  # fmt: skip

    def block_batches(self, batches: Batches, block: int, norm: str = "batch") -> BlockBatches:
        """Return a block's input and the teacher's projection after it, `[M, C]`, for every batch.

        A batch of one image is left out: it has neither deviation nor covariance.
        """
        net, teacher, project = self.net, self.teacher, self.teacher_projectors[block]
        mode = batch_statistics if norm == "batch" else evaluating

        def pair(images: Any, labels: Tensor) -> Pair | None:
            first, second = self.views(images)
            if len(first) < 2:
                return None
            with evaluating(net.stem), mode(teacher), mode(project):
                target = project(teacher(first)[block])
                x = net.enter(second) if block == 0 else self.entries[block - 1](teacher(second)[block - 1])
            return x, target

        return BlockBatches(batches, pair)

    def views(self, images: Any) -> tuple[Tensor, Tensor]:
        """Return the teacher's and the supernet's view of the images, on the method's device, channels last."""
        views = images if isinstance(images, (list, tuple)) else [images, images]
        if len(views) != 2:
            raise InputError(
                f"[dna-pp] expected one or two views of the images, got {len(views)}; use a loader with views=2"
            )
        device = device_of(self)
        return place(views[0], device), place(views[1], device)


class LearningTeacher(nn.Module):
    """A copy of a teacher's module that is trained: each feature's graph reaches back to the tap before it, no further.

    So every block of the teacher learns from the loss of that block alone, as every block of the supernet does.
    """

    def __init__(self, teacher: Teacher):
        super().__init__()
        self.module, self.taps = copy_module(teacher.module).requires_grad_(True), teacher.taps

    def forward(self, images: Tensor) -> list[Tensor]:
        """images: `[B, 3, H, W]` -> the features at the taps; the part after the last tap does not run."""
        features: dict[str, Tensor] = {}

        def keep(tap: str, module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
            features[tap] = output
            if len(features) == len(self.taps):
                raise _Done
            return output.detach()

        handles = [self.module.get_submodule(tap).register_forward_hook(partial(keep, tap)) for tap in self.taps]
        try:
            with suppress(_Done):
                self.module(images)
        finally:
            for handle in handles:
                handle.remove()
        return [features[tap] for tap in self.taps]


class _Done(Exception):
    """All taps are reached."""


def projector(in_channels: int, channels: int) -> nn.Sequential:
    """MLP on a block's pooled features: `[B, in_channels, H, W]` -> `[B, channels]`; batch norm between the layers."""
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    parts["pool"], parts["flatten"] = nn.AdaptiveAvgPool2d(1), nn.Flatten()
    for number, width in enumerate((in_channels, channels), 1):
        parts[f"linear_{number}"] = nn.Linear(width, channels, bias=False)
        parts[f"norm_{number}"], parts[f"act_{number}"] = nn.BatchNorm1d(channels), nn.ReLU()
    parts["linear_3"] = nn.Linear(channels, channels, bias=False)
    return NormSequential(parts)
