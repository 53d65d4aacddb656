"""DNA: block-wise distillation from a teacher's features (Distillation via Supervising Learning, sections 3.2-3.3)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from annotated_types import Len
from torch import Tensor, nn
from torch.nn import functional

from pynas.checked import AtLeastOne, Fraction, NonNegative, Positive, checked
from pynas.errors import InputError
from pynas.methods.blocks import Batches, BlockBatches, rate_cells
from pynas.methods.dna.block_weights import check_weights
from pynas.methods.dna.feature_cache import FeatureCache
from pynas.methods.dna.functional import Tail, head_loss, is_functional, kl_divergence
from pynas.methods.dna.inputs import block_inputs
from pynas.methods.dna.optimizer import block_optimizer, block_rates
from pynas.methods.dna.projection import build_projections, fit_projections
from pynas.methods.dna.widths import Widen, input_widths, narrow
from pynas.methods.precision import Precision
from pynas.methods.sampling import uniform_path
from pynas.methods.views import place
from pynas.rating import Scores, ScoreTable
from pynas.spaces import Choice
from pynas.supernets import Supernet, device_of
from pynas.teachers import Teacher, as_teacher
from pynas.train.method import Method, backward, unshared_state, with_prefixes

Loss = str | Callable[..., Tensor]


class DNA(nn.Module, Method):
    """Each block of the supernet learns to turn the teacher's features before it into the teacher's features after it.

    Training loss of a path of block k: mean (Y_k - U_k(Y_{k-1}))^2 over the K neurons of Y_k (eq. 6). The first block
    gets the images through the stem, which is trained with it. All blocks train in every step on one teacher pass: every
    cell of a block runs one path, drawn uniformly. The head is trained at the same time to classify the teacher's last
    features (`head_loss`), so that the exported network works without retraining.

    Where the teacher's width differs from the block's, width="projection" sends the teacher's features through a fixed 1x1
    convolution (`Projection`): their principal components, fitted on the first `projection_batches` training batches. With
    "teacher" the block learns the features themselves, through learned 1x1 convolutions after and before it (`FullWidth`),
    which `fold` takes up in the exported network. In a space whose blocks end in several widths (nats-size), a path of width w
    gets and learns the first w principal components, and a block trains one cell a step.

    net: the supernet. teacher: a `Teacher`, a timm name, or any nn.Module with `taps`, one name per block.
    learning_rates: starting rates of the first block and of the others (section 4.3), or of each block. They are multiplied by
        `decay` every `decay_every` epochs. optimizer: "adam", or "adamw", which the paper trains ViTs by, with decay_every=3.
        weight_decay: of the optimizer, None for torch's default.
    loss_weights: factors lambda_k of the blocks' training losses; 1 each by default.
    logits_after: share of the epochs after which blocks learn the teacher's logits, by the "kl" of ratings; 1: never (paper).
    teacher_norm: batch norm of the teacher: "running" (its stored statistics) or "batch" (each batch's, as in the released
        code); None keeps the teacher's setting.
    amp: "bfloat16", "float16" (scales losses) or "auto" (`Precision`) for the training's forward passes; None: float32.
    cache: folder for the teacher's features of the images that are rated on (`FeatureCache`), at most `cache_bytes`;
        the extra "cache" installs its package lmdb.
        cache_training: also cache the training images, which must then be the same in every epoch.

    Raises:
        InputError: taps that do not match the blocks in number or size, an option out of its range, width="teacher" in a
            space whose blocks end in several widths.
    """

    trained_blocks: Collection[int]  # type: ignore[assignment]

    @checked("dna")
    def __init__(
        self,
        net: Supernet,
        teacher: Teacher | nn.Module | str,
        *,
        taps: Sequence[str] | None = None,
        image_shape: tuple[int, int, int] | None = None,
        learning_rates: Annotated[tuple[Positive, ...], Len(2)] = (0.002, 0.005),
        decay: Positive = 0.9,
        decay_every: AtLeastOne = 1,
        optimizer: Literal["adam", "adamw"] = "adam",
        weight_decay: NonNegative | None = None,
        width: Literal["projection", "teacher"] = "projection",
        projection_batches: AtLeastOne = 4,
        loss_weights: Sequence[float] | None = None,
        logits_after: Fraction = 1.0,
        teacher_norm: Literal["running", "batch"] | None = None,
        amp: Literal["bfloat16", "float16", "auto"] | None = None,
        cache: str | Path | None = None,
        cache_bytes: AtLeastOne = 4 * 2**30,
        cache_training: bool = False,
    ):
        super().__init__()
        self.net = net
        self.teacher = as_teacher(teacher, taps)
        if teacher_norm is not None:
            self.teacher = Teacher(self.teacher.module, self.teacher.taps, teacher_norm, self.teacher.metadata)
        side = net.space.image_size
        self.image_shape = image_shape or (3, side, side)
        self.learning_rates, self.weight_decay = block_rates(learning_rates, len(net.space)), weight_decay
        self.decay, self.decay_every, self.projection_batches = decay, decay_every, projection_batches
        self.loss_weights = check_weights(loss_weights, len(net.space))
        self.precision, self.optimizer_kind = Precision(amp), optimizer
        self.projections, self.full_width = build_projections(self.teacher, net, self.image_shape, width)
        self.widths = input_widths(net, self.image_shape)
        self.cache = None if cache is None else FeatureCache(cache, self.teacher, cache_bytes)
        self.cache_training, self.trained_blocks = cache_training, range(len(net.space))
        self.logits_after, self.learns_logits = logits_after, False
        self._tails: dict[tuple[int, torch.device], nn.Module] = {}
        for block in self.trained_blocks if logits_after < 1 else ():
            self.tail(block)  # a teacher without such logits is refused now

    @torch.no_grad()
    def targets(self, images: Tensor, training: bool = False) -> tuple[list[Tensor], Tensor | None]:
        """Return the teacher's features after each block, in the blocks' widths, and its logits (None without a head)."""
        if self.cache is not None and (self.cache_training or not training):
            features, logits = self.cache(images)
        else:
            with self.autocast() if training else contextlib.nullcontext():
                features, logits = self.teacher.features_and_logits(images)
        return [projection(feature) for projection, feature in zip(self.projections, features)], logits

    def prepare(self, batches: Batches) -> None:
        """Fit the projections on the first training batches."""
        fit_projections(self.projections, self.precision.choose(self, batches), self.projection_batches,
                        lambda x: self.teacher(self.place(x)))  # fmt: skip

    def optimizer(self) -> torch.optim.Optimizer:
        """Return the optimizer with the starting rates of the blocks (section 4.3)."""
        if self.precision.dtype == torch.float16:
            self.scaler = torch.amp.GradScaler(self.device.type)
        return block_optimizer(self.net, self.full_width, self.optimizer_kind, self.learning_rates, self.weight_decay)

    def rate_factor(self, progress: float, epochs: int) -> float:
        """Return `decay` to the power of the number of `decay_every` epochs that have passed."""
        return self.decay ** (int(progress + 1e-9) // self.decay_every)

    def training_step(self, images: Tensor, labels: Tensor, rng: np.random.Generator) -> dict[str, Tensor]:
        """Train all blocks on one batch; backward runs block by block, which keeps one block's graph at a time."""
        images = self.place(images)
        features, logits = self.targets(images, training=True)
        losses = {}
        for b in range(len(self.net.space.blocks)):
            x = images if b == 0 else features[b - 1]
            losses[f"block_{b + 1}"] = self.train_block(b, x, features[b], rng, logits)
        return losses | self.train_head(features[-1], logits, labels, rng)

    def before_step(self, progress: float, epochs: int, optimizer: torch.optim.Optimizer) -> None:
        """Go over to the teacher's logits when `logits_after` of the epochs are over."""
        self.learns_logits = progress >= self.logits_after * epochs

    def train_block(
        self, block: int, x: Tensor, target: Tensor, rng: np.random.Generator, logits: Tensor | None = None
    ) -> Tensor:
        """Train a random path of every cell of a block, of one cell where widths differ, by eq. 6; returns the mean loss.

        x: the block's input, of the first block the images. logits: the teacher's, for `logits_after`. For a block that another
        process trains the loss is 0; its paths are drawn all the same, so that `rng` stays in step.
        """
        cells = self.net.space.blocks[block]
        drawn = [int(rng.integers(len(cells)))] if self.net.space.has_states else range(len(cells))
        choices = [Choice(c, uniform_path(cells[c].counts, rng)) for c in drawn]
        loss = torch.zeros((), device=x.device)
        if block not in self.trained_blocks:
            return loss
        with self.autocast():
            x = self.net.enter(x) if block == 0 else self.full_width.entries[block](x)
            for choice in choices:
                output = self.net.run_path(block, choice, narrow(x, self.widths[block][choice.cell]))
                if self.learns_logits and logits is not None:
                    loss = loss + kl_divergence(self.tail(block)(output).float(), logits.float())
                else:
                    output = self.full_width.exits[block](output).float()
                    loss = loss + functional.mse_loss(output, target[:, : output.shape[1]].float())
        self.backward(loss * self.loss_weights[block], self.reduce)
        return loss.detach() / len(choices)

    def train_head(
        self, features: Tensor, logits: Tensor | None, labels: Tensor, rng: np.random.Generator
    ) -> dict[str, Tensor]:
        """Train the head on the teacher's last features by `head_loss`, where widths differ on a random one of them.

        A net without a head has no loss.
        """
        if self.net.head is None:
            return {}
        if self.net.space.has_states:
            features = narrow(features, self.widths[-1][int(rng.integers(len(self.widths[-1])))])
        if len(self.net.space) - 1 not in self.trained_blocks:
            return {"head": torch.zeros(())}
        with self.autocast():
            loss = head_loss(
                self.net.head(self.full_width.entries[-1](features)).float(),
                None if logits is None else logits.float(),
                labels,
            )
        self.backward(loss, self.reduce)
        return {"head": loss.detach()}

    def trained_state(self) -> dict[str, Tensor]:
        """Return the state dict without the frozen teacher."""
        return unshared_state(self, "teacher.")

    def block_state(self, block: int) -> dict[str, Tensor]:
        """Return the tensors trained with a block; the stem belongs to the first block, the head to the last."""
        parts = [f"net.blocks.{block}."]
        parts += ["net.stem."] * (block == 0) + ["net.head."] * (block == len(self.net.space) - 1)
        parts += [f"full_width.{name}" for name in self.full_width.names(block)]
        return with_prefixes(self.trained_state(), *parts)

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Return the context in which forward passes run in the `amp` type."""
        return self.precision.autocast(self.device)

    def backward(self, loss: Tensor, reduce: Callable[[Tensor], None] | None = None) -> None:
        """Add the loss's gradients, if it has any; in float16 it is scaled, so that small gradients do not vanish."""
        backward(loss, self.scaler, reduce)

    def rate(self, batches: Batches, **options: Any) -> Scores:
        """Rate every path of every block. options: as of `rate_block`."""
        options["loss"] = options.get("loss") or self.default_loss()
        return Scores(self.net.space, [self.rate_block(batches, b, **options) for b in range(len(self.net.space))])

    def default_loss(self) -> str:
        """Return "kl" where the teacher's logits can be had from each block's output (`Tail`), else "relative_l1" (eq. 7)."""
        with contextlib.suppress(InputError):
            _ = [self.tail(block) for block in range(len(self.net.space))]
            return "kl"
        return "relative_l1"

    def tail(self, block: int) -> nn.Module:
        """Return the part of the teacher after a block, from the block's output to the logits; raises InputError as `Tail`."""
        key = block, self.device
        if key not in self._tails:
            rest = Tail(self.teacher, block, self.projections[block], self.image_shape)  # type: ignore[arg-type]
            self._tails[key] = nn.Sequential(self.full_width.exits[block], rest)
        return self._tails[key]

    def fold(self, model: nn.Module) -> bool:
        """Take up the learned 1x1 convolutions in an exported network, in place; see `FullWidth.fold`."""
        return self.full_width.fold(model, self.net.space.kind)

    def rate_block(
        self,
        batches: Batches,
        block: int,
        *,
        loss: Loss | None = None,
        norm: str = "batch",
        prefix: Sequence[Choice] = (),
        resume: str | Path | None = None,
        **options: Any,
    ) -> list[ScoreTable]:
        """Rate every path of a block; returns a table per cell.

        batches: yields (images, labels), the same batches each time it is iterated.
        loss: functional: "kl", "cross_entropy" or "error" of the teacher's logits when its later part runs on the path's
            output (`Tail`); or of the output and the teacher's features: "relative_l1" (the paper's, eq. 7), "mse",
            "cosine", a callable. None for `default_loss`. norm: as of `pynas.rate`.
        prefix: choices of some blocks just before, the last of them for the block before; the block then gets their output
            instead of the teacher's features.
        resume: the partial rating of cell c is kept in `<resume>.cell_<c>` until the cell is done.
        options: for `pynas.rate`; a `tail` of your own gives the logits in place of the teacher's.
        """
        loss = self.default_loss() if loss is None else loss
        if is_functional(loss) and "tail" not in options:
            options["tail"] = self.tail(block)
        elif not is_functional(loss):
            widest = len(self.projections[block].weight)  # type: ignore[arg-type]
            options["tail"] = Widen(widest) if self.net.space.has_states else self.full_width.exits[block]
        inputs = [self.block_batches(batches, block, loss, prefix, width) for width in self.widths[block]]
        return rate_cells(self.net, block, inputs, loss=loss, norm=norm, resume=resume, **options)

    def block_batches(
        self,
        batches: Batches,
        block: int,
        loss: Loss = "relative_l1",
        prefix: Sequence[Choice] = (),
        width: int | None = None,
    ) -> BlockBatches:
        """Return a block's input and its target under `loss` for every batch, see `block_inputs`."""

        def teach(images: Tensor) -> tuple[Tensor, list[Tensor], Tensor | None]:
            images = self.place(images)
            return images, *self.targets(images)

        return block_inputs(self.net, self.full_width, teach, batches, block, loss, prefix, width)

    @property
    def device(self) -> torch.device:
        """Device of the supernet; of the teacher where the supernet has no weights."""
        return device_of(self.net, self)

    def place(self, images: Tensor) -> Tensor:
        """Move images to the method's device, channels last."""
        return place(images, self.device)
