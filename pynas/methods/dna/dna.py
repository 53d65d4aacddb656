"""DNA: block-wise distillation from a teacher's features (Distillation via Supervising Learning, sections 3.2-3.3)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from pynas.errors import InputError
from pynas.methods.checks import check_one_of
from pynas.methods.dna.block_batches import Batches, BlockBatches, check_taps
from pynas.methods.dna.feature_cache import FeatureCache
from pynas.methods.dna.functional import Tail, is_functional
from pynas.methods.dna.progressive import STRATEGIES, Progressive
from pynas.methods.dna.projection import Projection
from pynas.methods.sampling import uniform_path
from pynas.methods.views import place
from pynas.rating import ScoreTable, rate
from pynas.spaces import Architecture, Choice
from pynas.supernets import Supernet
from pynas.teachers import Teacher, as_teacher

AMP = {"bfloat16": torch.bfloat16, "float16": torch.float16}
OPTIMIZERS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


class DNA(nn.Module):
    """Each block of the supernet learns to turn the teacher's features before it into the teacher's features after it.

    Training loss of a path of block k: mean (Y_k - U_k(Y_{k-1}))^2 over the K neurons of Y_k (eq. 6). The first block
    gets the images through the stem, which learns with it. All blocks train in every step from one teacher pass, every
    cell of a block with a path of its own, drawn uniformly. The head learns at the same time to classify the teacher's
    last features (`head_loss`), so that the exported network works without retraining.

    Where the teacher's width differs from the block's, the teacher's features first go through a fixed 1x1 convolution
    (`Projection`): its principal components, fitted on the first `projection_batches` training batches.

    net: the supernet. teacher: a `Teacher`, a timm name, or any nn.Module with `taps`, one name per block.
    learning_rates: Adam's starting rates for the first block and for the others (section 4.3); decay: factor every
        `decay_every` epochs. optimizer: "adam", or "adamw", which the paper trains ViTs by, with decay_every=3.
    loss_weights: what block k's training loss is multiplied by (lambda_k); 1 each by default.
    teacher_norm: "running" (the teacher's own statistics) or "batch" (as the released code does); default: as it is.
    amp: "bfloat16" or "float16" (with loss scaling) for the training's forward passes; None is float32.
    strategy: "concurrent" (eq. 6), or one block after the other on what the student's own blocks before it put out
        (eq. 5; table 10): "progressive-a" or "progressive-b", see `Progressive`, with `keep` (its m) and
        `rating_batches`, the batches that a block is rated on before the next one begins.
    cache: folder for the teacher's features of fixed images (`FeatureCache`), at most `cache_bytes`: those that are
        rated on, and with `cache_training` those that are trained on, which must then be the same in every epoch.

    Raises:
        InputError: taps that do not match the blocks in number or size, an unknown option.
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
        decay_every: int = 1,
        optimizer: str = "adam",
        projection_batches: int = 4,
        loss_weights: Sequence[float] | None = None,
        teacher_norm: str | None = None,
        amp: str | None = None,
        strategy: str = "concurrent",
        keep: int = 5,
        rating_batches: Batches | None = None,
        cache: str | Path | None = None,
        cache_bytes: int = 4 * 2**30,
        cache_training: bool = False,
    ):
        super().__init__()
        self.net = net
        self.teacher = as_teacher(teacher, taps)
        if teacher_norm is not None:
            self.teacher = Teacher(self.teacher.module, self.teacher.taps, teacher_norm, self.teacher.metadata)
        side = net.space.image_size
        self.image_shape = image_shape or (3, side, side)
        if decay_every < 1:
            raise InputError(f"[dna] expected decay_every of at least 1 epoch, got {decay_every}")
        self.learning_rates, self.decay, self.decay_every = learning_rates, decay, decay_every
        self.projection_batches = projection_batches
        self.loss_weights = check_weights(loss_weights, len(net.space))
        check_one_of("dna", "amp", amp, (None, *AMP))
        check_one_of("dna", "strategy", strategy, ("concurrent", *STRATEGIES))
        check_one_of("dna", "optimizer", optimizer, tuple(OPTIMIZERS))
        self.amp, self.optimizer_type = None if amp is None else AMP[amp], OPTIMIZERS[optimizer]
        self.scaler: torch.amp.GradScaler | None = None
        shapes = check_taps(self.teacher, net, self.image_shape)
        self.projections = nn.ModuleList(Projection(have[0], want[0]) for have, want in shapes)
        self.progressive = None if strategy == "concurrent" else Progressive(net.space, strategy, keep)
        self.rating_batches = rating_batches
        self.cache = None if cache is None else FeatureCache(cache, self.teacher, cache_bytes)
        self.cache_training = cache_training
        self.blocks_apart = self.progressive is None
        self.trained_blocks: Collection[int] = range(len(net.space))

    @torch.no_grad()
    def targets(self, images: Tensor, training: bool = False) -> tuple[list[Tensor], Tensor | None]:
        """The teacher's features after each block, in the blocks' widths, and its logits (None without a head)."""
        if self.cache is not None and (self.cache_training or not training):
            features, logits = self.cache(images)
        else:
            with self.autocast() if training else contextlib.nullcontext():
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
        if self.amp == torch.float16:
            self.scaler = torch.amp.GradScaler(self.device.type)
        return self.optimizer_type([group for group in groups if group["params"]])

    def rate_factor(self, progress: float, epochs: int) -> float:
        """Rates shrink by `decay` after every `decay_every` epochs (of a block's own training, where these come in turn)."""
        if self.progressive is not None:
            progress -= self.progressive.stage_at(progress, epochs) * epochs / len(self.net.space)
        return self.decay ** (int(progress + 1e-9) // self.decay_every)

    def before_step(self, progress: float, epochs: int, optimizer: torch.optim.Optimizer) -> None:
        """Where blocks train in turn: rate the block that is done, and begin the next one."""
        if self.progressive is not None:
            self.progressive.advance(self, self.progressive.stage_at(progress, epochs), optimizer)

    def training_step(self, images: Tensor, labels: Tensor, rng: np.random.Generator) -> dict[str, Tensor]:
        """One step of all blocks; backward runs block by block, so that one block's graph is alive at a time."""
        images = self.place(images)
        features, logits = self.targets(images, training=True)
        if self.progressive is not None:
            losses = self.progressive.training_step(self, images, features, rng)
        else:
            losses = {}
            for b in range(len(self.net.space.blocks)):
                losses[f"block_{b + 1}"] = self.train_block(b, images if b == 0 else features[b - 1], features[b], rng)
        if self.net.head is not None:
            losses["head"] = torch.zeros(())
            if len(self.net.space) - 1 in self.trained_blocks:
                losses["head"] = self.train_head(self.net.head, features[-1], logits, labels)
        return losses

    def train_block(self, block: int, x: Tensor, target: Tensor, rng: np.random.Generator) -> Tensor:
        """Equation 6 for a random path of every cell of a block; x: the images for the first block. Mean over cells.

        0 for a block that another process trains; its paths are drawn all the same, so that `rng` goes on alike.
        """
        cells = self.net.space.blocks[block]
        choices = [Choice(c, uniform_path(cell.counts, rng)) for c, cell in enumerate(cells)]
        loss = torch.zeros((), device=x.device)
        if block not in self.trained_blocks:
            return loss
        with self.autocast():
            x = self.net.enter(x) if block == 0 else x
            for choice in choices:
                output = self.net.run_path(block, choice, x)
                loss = loss + functional.mse_loss(output.float(), target.float())
        self.backward(loss * self.loss_weights[block])
        return loss.detach() / len(cells)

    def train_head(self, head: nn.Module, features: Tensor, logits: Tensor | None, labels: Tensor) -> Tensor:
        """`head_loss` of the head on the teacher's last features."""
        with self.autocast():
            loss = head_loss(head(features).float(), None if logits is None else logits.float(), labels)
        self.backward(loss)
        return loss.detach()

    def block_parts(self, block: int) -> list[nn.Module]:
        """What learns with a block: the stem with the first one, the head with the last one."""
        parts = [self.net.blocks[block]]
        if block == 0 and self.net.stem is not None:
            parts.append(self.net.stem)
        if block == len(self.net.space) - 1 and self.net.head is not None:
            parts.append(self.net.head)
        return parts

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Forward passes of the training in the `amp` type."""
        return torch.autocast(self.device.type, self.amp) if self.amp is not None else contextlib.nullcontext()

    def backward(self, loss: Tensor) -> None:
        """Add a loss's gradients up; in float16, scaled so that small ones do not vanish."""
        (loss if self.scaler is None else self.scaler.scale(loss)).backward()

    def rate(
        self,
        batches: Batches,
        *,
        loss: str | Callable[..., Tensor] = "relative_l1",
        norm: str = "batch",
        **options: Any,
    ) -> list[list[ScoreTable]]:
        """Rate every path of every cell of every block: `tables[b][cell]`; the default is eq. 7 with batch statistics.

        loss: of a block's output and the teacher's features ("relative_l1", "mse", "cosine", a callable), or functional:
            "kl", "cross_entropy" or "error" of what comes out when the path's output runs on through the rest of the
            teacher (`Tail`).
        batches: yields (images, labels), the same ones each time it is iterated. options: for `pynas.rate`.
        """
        return [self.rate_block(batches, b, loss=loss, norm=norm, **options) for b in range(len(self.net.space.blocks))]

    def rate_block(
        self,
        batches: Batches,
        block: int,
        *,
        loss: str | Callable[..., Tensor] = "relative_l1",
        norm: str = "batch",
        resume: str | Path | None = None,
        **options: Any,
    ) -> list[ScoreTable]:
        """Rate every path of every cell of one block, as `rate` does.

        Where blocks were trained in turn, a block gets what the best kept path of the blocks before it puts out.

        resume: the partial rating of cell c is kept in `<resume>.cell_<c>` until the cell is done.
        """
        inputs = self.block_batches(batches, block, loss)
        if is_functional(loss):
            options["tail"] = Tail(self.teacher, block, self.projections[block], self.image_shape)  # type: ignore[arg-type]
        tables = []
        for c in range(len(self.net.space.blocks[block])):
            file = None if resume is None else f"{resume}.cell_{c}"
            tables.append(rate(self.net.layers(block, c), inputs, loss=loss, norm=norm, resume=file, **options))
        return tables

    def block_batches(
        self, batches: Batches, block: int, loss: str | Callable[..., Tensor] = "relative_l1"
    ) -> BlockBatches:
        """What block `block` gets, and what its paths are compared with under `loss`, batch by batch."""
        prefix = () if self.progressive is None else self.progressive.prefixes(block)[0]
        return BlockBatches(self, batches, block, loss, prefix)

    def kept_architectures(self, batches: Batches) -> list[tuple[Architecture, float]]:
        """The m architectures that a progressive training ends with, and their scores, best first (table 10).

        Raises:
            InputError: a concurrent training, which keeps none: search its tables.
        """
        if self.progressive is None:
            raise InputError("[dna] expected a progressive strategy, got 'concurrent'; search the tables of `rate`")
        return self.progressive.search(self, batches)

    @property
    def device(self) -> torch.device:
        """Where the supernet is."""
        return next(self.net.parameters()).device

    def place(self, images: Tensor) -> Tensor:
        """Images on the method's device, channels last: the layout that convolutions run fastest in."""
        return place(self.net, images)


def head_loss(output: Tensor, logits: Tensor | None, labels: Tensor) -> Tensor:
    """KL(teacher || student) of logits `[B, classes]`, mean over the batch; cross-entropy with the labels where the
    teacher has no logits for these classes (none at all, or another number)."""
    if logits is None or logits.shape != output.shape:
        return functional.cross_entropy(output, labels.to(output.device))
    student, teacher = functional.log_softmax(output, 1), functional.log_softmax(logits, 1)
    return functional.kl_div(student, teacher, log_target=True, reduction="batchmean")


def check_weights(weights: Sequence[float] | None, blocks: int) -> list[float]:
    """One weight of 0 or more per block; 1 each where there are none."""
    checked = [1.0] * blocks if weights is None else [float(weight) for weight in weights]
    if len(checked) != blocks or not all(0 <= weight < float("inf") for weight in checked):
        raise InputError(f"[dna] expected {blocks} loss_weights of 0 or more, one per block, got {weights!r}")
    return checked
