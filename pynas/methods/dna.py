"""DNA: block-wise distillation from a teacher's features (Distillation via Supervising Learning, sections 3.2-3.3)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from pynas.errors import InputError
from pynas.methods.projection import Projection
from pynas.methods.sampling import uniform_path
from pynas.rating import ScoreTable, rate
from pynas.spaces import Choice
from pynas.supernets import Supernet, evaluating
from pynas.teachers import Teacher, as_teacher

Batches = Iterable[tuple[torch.Tensor, torch.Tensor]]


class DNA(nn.Module):
    """Each block of the supernet learns to turn the teacher's features before it into the teacher's features after it.

    Training loss of a path of block k: mean (Y_k - U_k(Y_{k-1}))^2 over the K neurons of Y_k (eq. 6). The first block
    gets the images through the stem, which learns with it. All blocks train in every step from one teacher pass, every
    cell of a block with a path of its own, drawn uniformly. The head learns at the same time to classify the teacher's
    last features (`head_loss`), so that the exported network works without retraining.

    Where the teacher's width differs from the block's, the teacher's features first go through a fixed 1x1 convolution
    (`Projection`): its principal components, fitted on the first `projection_batches` training batches.

    net: the supernet. teacher: a `Teacher`, a timm name, or any nn.Module with `taps`, one name per block.
    learning_rates: Adam's starting rates for the first block and for the others (section 4.3); decay: factor per epoch.
    teacher_norm: "running" (the teacher's own statistics) or "batch" (as the released code does).

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
        learning_rates: tuple[float, float] = (0.002, 0.005),
        decay: float = 0.9,
        projection_batches: int = 4,
    ):
        super().__init__()
        self.net = net
        self.teacher = as_teacher(teacher, taps)
        side = net.space.image_size
        self.image_shape = image_shape or (3, side, side)
        self.learning_rates, self.decay, self.projection_batches = learning_rates, decay, projection_batches
        shapes = check_taps(self.teacher, net, self.image_shape)
        self.projections = nn.ModuleList(Projection(have[0], want[0]) for have, want in shapes)

    @torch.no_grad()
    def targets(self, images: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor | None]:
        """The teacher's features after each block, in the blocks' widths, and its logits (None without a head)."""
        features, logits = self.teacher.features_and_logits(images)
        return [projection(feature) for projection, feature in zip(self.projections, features)], logits

    @torch.no_grad()
    def prepare(self, batches: Batches) -> None:
        """Fit the projections on the first training batches."""
        features = []
        for number, (images, _) in enumerate(batches):
            if number == self.projection_batches:
                break
            features.append(self.teacher(self.place(images)))
        if not features:
            raise InputError("[dna] expected training batches, got an empty loader")
        for projection, block in zip(self.projections, zip(*features)):
            projection.fit(block)  # type: ignore[operator]

    def optimizer(self) -> torch.optim.Optimizer:
        """Adam with the paper's starting rates per block (section 4.3); the head trains at the rate of the last blocks."""
        first, rest = self.learning_rates
        outer = list(self.net.stem.parameters()) if self.net.stem is not None else []
        groups: list[dict[str, Any]] = [{"params": outer + list(self.net.blocks[0].parameters()), "lr": first}]
        groups += [{"params": list(block.parameters()), "lr": rest} for block in self.net.blocks[1:]]
        if self.net.head is not None:
            groups.append({"params": list(self.net.head.parameters()), "lr": rest})
        return torch.optim.Adam([group for group in groups if group["params"]])

    def rate_factor(self, progress: float, epochs: int) -> float:
        """Learning rates shrink by `decay` after every epoch."""
        return self.decay ** int(progress)

    def training_step(
        self, images: torch.Tensor, labels: torch.Tensor, rng: np.random.Generator
    ) -> dict[str, torch.Tensor]:
        """One step of all blocks; backward runs block by block, so that one block's graph is alive at a time."""
        images = self.place(images)
        features, logits = self.targets(images)
        losses = {}
        for b, cells in enumerate(self.net.space.blocks):
            x = self.net.enter(images) if b == 0 else features[b - 1]
            loss = torch.zeros((), device=x.device)
            for c, cell in enumerate(cells):
                output = self.net.run_path(b, Choice(c, uniform_path(cell.counts, rng)), x)
                loss = loss + functional.mse_loss(output, features[b])
            loss.backward()
            losses[f"block_{b + 1}"] = loss.detach() / len(cells)
        if self.net.head is not None:
            loss = head_loss(self.net.head(features[-1]), logits, labels)
            loss.backward()
            losses["head"] = loss.detach()
        return losses

    def rate(
        self,
        batches: Batches,
        *,
        loss: str | Callable[..., torch.Tensor] = "relative_l1",
        norm: str = "batch",
        **options: Any,
    ) -> list[list[ScoreTable]]:
        """Rate every path of every cell of every block: `tables[b][cell]`; the default is eq. 7 with batch statistics.

        batches: yields (images, labels), the same ones each time it is iterated. options: for `pynas.rate`.
        """
        return [self.rate_block(batches, b, loss=loss, norm=norm, **options) for b in range(len(self.net.space.blocks))]

    def rate_block(
        self,
        batches: Batches,
        block: int,
        *,
        loss: str | Callable[..., torch.Tensor] = "relative_l1",
        norm: str = "batch",
        resume: str | Path | None = None,
        **options: Any,
    ) -> list[ScoreTable]:
        """Rate every path of every cell of one block, as `rate` does.

        resume: the partial rating of cell c is kept in `<resume>.cell_<c>` until the cell is done.
        """
        inputs = self.block_batches(batches, block)
        tables = []
        for c in range(len(self.net.space.blocks[block])):
            file = None if resume is None else f"{resume}.cell_{c}"
            tables.append(rate(self.net.layers(block, c), inputs, loss=loss, norm=norm, resume=file, **options))
        return tables

    def block_batches(self, batches: Batches, block: int) -> BlockBatches:
        """What block `block` gets and should put out, batch by batch."""
        return BlockBatches(self, batches, block)

    def place(self, images: torch.Tensor) -> torch.Tensor:
        """Images on the method's device, channels last: the layout that convolutions run fastest in."""
        device = next(self.net.parameters()).device
        return images.to(device, memory_format=torch.channels_last, non_blocking=True)


class BlockBatches:
    """(Y_{k-1}, Y_k) of one block for every batch; runs the teacher anew each time it is iterated."""

    def __init__(self, method: DNA, batches: Batches, block: int):
        self.method, self.batches, self.block = method, batches, block

    def __len__(self) -> int:
        return len(self.batches)  # type: ignore[arg-type]

    @torch.no_grad()
    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        net = self.method.net
        for images, _ in self.batches:
            images = self.method.place(images)
            features, _ = self.method.targets(images)
            if self.block > 0:
                x = features[self.block - 1]
            else:
                with evaluating(net.stem):
                    x = net.enter(images)
            yield x, features[self.block]


def head_loss(output: torch.Tensor, logits: torch.Tensor | None, labels: torch.Tensor) -> torch.Tensor:
    """KL(teacher || student) of logits `[B, classes]`, mean over the batch; cross-entropy with the labels where the
    teacher has no logits for these classes (none at all, or another number)."""
    if logits is None or logits.shape != output.shape:
        return functional.cross_entropy(output, labels.to(output.device))
    student, teacher = functional.log_softmax(output, 1), functional.log_softmax(logits, 1)
    return functional.kl_div(student, teacher, log_target=True, reduction="batchmean")


def check_taps(
    teacher: Teacher, net: Supernet, image_shape: tuple[int, int, int]
) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """The teacher's shape at each tap beside the block's.

    Raises:
        InputError: another number of taps than blocks, or another spatial size.
    """
    have, want = teacher.feature_shapes(image_shape), net.block_shapes(image_shape)
    if len(have) != len(want):
        raise InputError(f"[dna] expected {len(want)} taps, one per block, got {len(have)}: {', '.join(teacher.taps)}")
    for b, (a, w) in enumerate(zip(have, want)):
        if a[1:] != w[1:]:
            raise InputError(
                f"[dna] expected features of size {_size(w)} after block {b + 1}, got {_size(a)} "
                f"at the teacher's tap {teacher.taps[b]!r} for {_size(image_shape)} images"
            )
    return list(zip(have, want))


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape[1:])) if len(shape) == 3 else f"the shape {shape}"
