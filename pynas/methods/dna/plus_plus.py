"""DNA++: teacher and supernet learn together, without labels (Distillation via Self-Supervised Learning, section 3.5)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from pynas.errors import InputError
from pynas.methods.dna.block_batches import check_taps
from pynas.methods.dna.learning_teacher import LearningTeacher
from pynas.methods.dna.projection import Projection
from pynas.methods.dna.self_supervised_loss import SelfSupervisedLoss
from pynas.methods.sampling import uniform_path
from pynas.methods.schedule import lars, warm_cosine
from pynas.methods.views import place
from pynas.rating import ScoreTable, rate
from pynas.spaces import Choice
from pynas.supernets import Supernet, evaluating
from pynas.supernets.modes import batch_statistics
from pynas.teachers import Teacher, as_teacher

# (images, labels); images are a tensor or a list of two views.
Batches = Iterable[tuple[Any, torch.Tensor]]


class DNAPlusPlus(nn.Module):
    """Each block of the supernet and of the teacher learn to put out the same about an image, through an MLP each.

    Loss of a path of block k: `SelfSupervisedLoss` of the projections of S_k(Y'_{k-1}) and of Y_k, where Y_k are the
    teacher's features of one view of the images and Y' those of the other (eq. 10, 11). No labels, no moving average:
    the hinge of eq. 11 keeps the projections apart, so that the teacher may learn too, each of its blocks from that
    block's loss alone. Its architecture may be of another kind than the supernet's.

    The blocks agree through their projections, not in their features: a found network is retrained from scratch (its
    blocks do not expect each other's outputs), and the supernet's head does not learn here.

    net: the supernet. teacher: a `Teacher`, a timm name, or any nn.Module with `taps`; a copy of it learns, from the
        weights it has (fresh ones, say of `timm_teacher(name, pretrained=False)`, make the search free of labels).
    channels: width of the MLPs, hidden and out. loss: other weights for eq. 10 and 11.
    learning_rate: LARS's starting rate, for 256 images a batch. The paper prints 0.0025 with LARS and 0.33 with AdamW;
        the two are taken to be swapped. Biases and norms get neither weight decay nor LARS's adaptation.
    trust: LARS's coefficient. 0.001 suits trainings of a hundred thousand steps; a few hundred need more, say 0.03.
    warmup: epochs of linear warm-up before the cosine.

    Raises:
        InputError: taps that do not match the blocks in number or size.
    """

    def __init__(
        self,
        net: Supernet,
        teacher: Teacher | nn.Module | str,
        *,
        taps: Sequence[str] | None = None,
        image_shape: tuple[int, int, int] | None = None,
        channels: int = 256,
        loss: SelfSupervisedLoss | None = None,
        learning_rate: float = 0.33,
        trust: float = 0.001,
        weight_decay: float = 1e-6,
        warmup: float = 0.0,
        projection_batches: int = 4,
    ):
        super().__init__()
        self.net = net
        fixed = as_teacher(teacher, taps)
        side = net.space.image_size
        self.image_shape = image_shape or (3, side, side)
        shapes = check_taps(fixed, net, self.image_shape)
        # Not called `teacher`: checkpoints leave that one out, since it does not learn elsewhere.
        self.learning_teacher = LearningTeacher(fixed)
        self.entries = nn.ModuleList(Projection(have[0], want[0]) for have, want in shapes)
        self.teacher_projectors = nn.ModuleList(projector(have[0], channels) for have, _ in shapes)
        self.projectors = nn.ModuleList(projector(want[0], channels) for _, want in shapes)
        self.loss = loss or SelfSupervisedLoss()
        self.learning_rate, self.trust = learning_rate, trust
        self.weight_decay, self.warmup = weight_decay, warmup
        self.projection_batches = projection_batches

    @torch.no_grad()
    def prepare(self, batches: Batches) -> None:
        """Fit the fixed projections that bring the teacher's features to the widths that the blocks take in."""
        features = []
        with batch_statistics(self.learning_teacher):
            for number, (images, _) in enumerate(batches):
                if number == self.projection_batches:
                    break
                features.append(self.learning_teacher(self.views(images)[0]))
        if not features:
            raise InputError("[dna-pp] expected training batches, got an empty loader")
        for entry, block in zip(self.entries, zip(*features)):
            entry.fit(block)  # type: ignore[operator]

    def optimizer(self) -> torch.optim.Optimizer:
        """LARS over both nets and the MLPs."""
        learning = [parameter for name, parameter in self.named_parameters() if not name.startswith("net.head.")]
        return lars(learning, self.learning_rate, self.weight_decay, self.trust)

    def rate_factor(self, progress: float, epochs: int) -> float:
        """Linear warm-up, then a cosine down to 0."""
        return warm_cosine(progress, epochs, self.warmup)

    def training_step(self, images: Any, labels: torch.Tensor, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        """One step of all blocks of supernet and teacher; backward runs block by block.

        images: two views as the loaders give them (`views=2`), or one that both nets see. labels: not looked at.
        """
        first, second = self.views(images)
        targets = self.learning_teacher(first)
        with torch.no_grad():
            features = self.learning_teacher(second)
        losses = {}
        for b, cells in enumerate(self.net.space.blocks):
            x = self.net.enter(second) if b == 0 else self.entries[b - 1](features[b - 1])
            target = self.teacher_projectors[b](targets[b])
            loss = torch.zeros((), device=x.device)
            for c, cell in enumerate(cells):
                output = self.net.run_path(b, Choice(c, uniform_path(cell.counts, rng)), x)
                loss = loss + self.loss(self.projectors[b](output), target) / len(cells)
            loss.backward()
            losses[f"block_{b + 1}"] = loss.detach()
        return losses

    def rate(self, batches: Batches, **options: Any) -> list[list[ScoreTable]]:
        """Rate every path of every cell of every block: `tables[b][cell]`; options as of `rate_block`."""
        return [self.rate_block(batches, b, **options) for b in range(len(self.net.space.blocks))]

    def rate_block(
        self,
        batches: Batches,
        block: int,
        *,
        loss: str | Callable[..., torch.Tensor] = "self_supervised",
        norm: str = "batch",
        resume: str | Path | None = None,
        **options: Any,
    ) -> list[ScoreTable]:
        """Rate every path of every cell of one block by its projection against the teacher's.

        batches: yields (images, labels), the same ones each time it is iterated; images may be two views.
        loss: "self_supervised" (that of the training), or what `pynas.rate` takes, on projections `[M, C]`.
        norm: of the supernet, the projectors and the teacher: "batch" or "running".
        resume: the partial rating of cell c is kept in `<resume>.cell_<c>` until the cell is done.
        """
        inputs = BlockBatches(self, batches, block, norm)
        scored: Any = self.loss if loss == "self_supervised" else loss
        tables = []
        for c in range(len(self.net.space.blocks[block])):
            file = None if resume is None else f"{resume}.cell_{c}"
            tail = self.projectors[block]
            tables.append(rate(self.net.layers(block, c), inputs, scored, norm, tail=tail, tail_norm=norm,
                               resume=file, **options))  # fmt: skip
        return tables

    def views(self, images: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """What the teacher and what the supernet sees, on the method's device, channels last."""
        views = images if isinstance(images, (list, tuple)) else [images, images]
        if len(views) != 2:
            raise InputError(f"[dna-pp] expected one or two views of the images, got {len(views)}")
        return place(self.net, views[0]), place(self.net, views[1])


class BlockBatches:
    """What block `block` takes in and the teacher's projection after it, `[M, C]`, for every batch.

    A batch of one image is left out: it has neither deviation nor covariance.
    """

    def __init__(self, method: DNAPlusPlus, batches: Batches, block: int, norm: str = "batch"):
        self.method, self.batches, self.block, self.norm = method, batches, block, norm

    def __len__(self) -> int:
        return len(self.batches)  # type: ignore[arg-type]

    @torch.no_grad()
    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        method, net, block = self.method, self.method.net, self.block
        teacher, project = method.learning_teacher, method.teacher_projectors[block]
        for images, _ in self.batches:
            first, second = method.views(images)
            if len(first) < 2:
                continue
            mode = batch_statistics if self.norm == "batch" else evaluating
            with evaluating(net.stem), mode(teacher), mode(project):
                target = project(teacher(first)[block])
                x = net.enter(second) if block == 0 else method.entries[block - 1](teacher(second)[block - 1])
            yield x, target


def projector(in_channels: int, channels: int) -> nn.Sequential:
    """The MLP on a block's pooled features: `[B, in_channels, H, W]` -> `[B, channels]`; batch norm between the layers."""
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    parts["pool"], parts["flatten"] = nn.AdaptiveAvgPool2d(1), nn.Flatten()
    for number, width in enumerate((in_channels, channels), 1):
        parts[f"linear_{number}"] = nn.Linear(width, channels, bias=False)
        parts[f"norm_{number}"], parts[f"act_{number}"] = nn.BatchNorm1d(channels), nn.ReLU()
    parts["linear_3"] = nn.Linear(channels, channels, bias=False)
    return nn.Sequential(parts)
