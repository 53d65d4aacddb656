"""BossNAS: blocks trained by ensemble bootstrapping, paths rated by their distance to the population's centre."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pynas.checked import AtLeastOne, checked
from pynas.errors import InputError
from pynas.methods.blocks import Batches
from pynas.methods.bossnas.block_tree import block_widths
from pynas.methods.bossnas.collapse import CollapseDetector
from pynas.methods.bossnas.losses import bootstrap_losses, build_heads, check_target, pooled, supervised_losses
from pynas.methods.bossnas.options import Bootstrap, Heads, Optimization
from pynas.methods.bossnas.rating import PathRating, TrainedBlock, rate_block
from pynas.methods.ema import ema_momentum, frozen_copy, update_ema
from pynas.methods.precision import Precision
from pynas.methods.sampling import BlockSampler
from pynas.methods.schedule import lars, warm_cosine
from pynas.methods.views import check_views, first_view, place
from pynas.rating import Scores, ScoreTable
from pynas.spaces import Cell, Choice
from pynas.supernets import Supernet, device_of, evaluating
from pynas.teachers import Teacher, as_teacher
from pynas.train.method import Method, backward, unshared_state, with_prefixes

Views = list[Tensor]


class BossNAS(nn.Module, Method):
    """Siamese supernets: every sampled path of the online one learns to predict the mean of all sampled paths of the other.

    Loss of path p of block k: mean over the batch of |S_k(W, p; x_p) - 1/P sum_q T_k(W', q; x'_q)|^2 (eq. 3-4), on
    L2-normalised vectors; (x_p, x'_p) is a pair of views of its own for each path, S ends with a projector and a
    predictor, T with the projector, W' is the moving average of W. No labels are used.

    One block trains at a time, chosen by `start(block)`. Its input is the output of the best paths of the blocks before it
    in the averaged supernet, chosen with `fix`. `pynas.methods.fit_blocks` does all of this. With feed="joint" all blocks
    train in every step, each on the output of one random path of the blocks before it, drawn anew each step since no path
    has been rated yet: this needs fewer epochs, but a block's input changes while the blocks before it learn.

    net: the supernet. teacher: for target="distillation". num_classes: for target="classification" and linear evaluation.
    batch_size: images per step of the optimizer (over all batches that `fit` accumulates).

    Raises:
        InputError: an option out of its range, or more paths than a layer has candidates under fair sampling.
    """

    @checked("bossnas")
    def __init__(
        self,
        net: Supernet,
        teacher: Teacher | nn.Module | str | None = None,
        *,
        taps: Sequence[str] | None = None,
        image_shape: tuple[int, int, int] | None = None,
        num_classes: int | None = None,
        batch_size: AtLeastOne = 256,
        bootstrap: Bootstrap = Bootstrap(),  # noqa: B008 (frozen)
        heads: Heads = Heads(),  # noqa: B008
        optimization: Optimization = Optimization(),  # noqa: B008
    ):
        super().__init__()
        side = net.space.image_size
        self.net, self.image_shape = net, image_shape or (3, side, side)
        self.bootstrap, self.optimization, self.num_classes = bootstrap, optimization, num_classes
        self.teacher = as_teacher(teacher, taps) if bootstrap.target == "distillation" and teacher is not None else None
        self.pairs = bootstrap.paths if bootstrap.views == "each" else 1
        self.learning_rate = optimization.rate * batch_size / 4096
        outputs = check_target(bootstrap.target, num_classes, self.teacher, self.image_shape, len(net.space.blocks))
        widths = block_widths(net, self.image_shape)
        self.heads, self.ema_heads = build_heads(widths, heads.width, heads.hidden, heads.dim, outputs)
        self.ema = frozen_copy(net)
        self.ema.head = None
        self.chosen: list[Choice] = []
        self.block, self.detector, self.precision = 0, CollapseDetector(), Precision(optimization.amp)
        self._samplers: dict[tuple[int, object], BlockSampler] = {}
        for b, cells in enumerate(net.space.blocks):
            for state in {cell.start for cell in cells}:
                self.sampler(b, state)

    @property
    def views(self) -> int:
        """Views of each image in a training batch: first the first views of all pairs, then the second ones."""
        return 2 * self.pairs

    @property
    def training_blocks(self) -> list[int]:
        """Blocks that train now."""
        return [self.block] if self.bootstrap.feed == "best" else list(range(len(self.net.space.blocks)))

    def start(self, block: int) -> None:
        """Train this block from now on.

        Raises:
            InputError: no best path was chosen for a block before it.
        """
        if self.bootstrap.feed == "best":
            self._check_chosen(block)
        self.block, self.detector = block, CollapseDetector()

    def _check_chosen(self, block: int) -> None:
        if len(self.chosen) < block:
            raise InputError(f"[bossnas] expected a best path for each block before block {block + 1}, "
                             f"got {len(self.chosen)}; rate and `fix` them first")  # fmt: skip

    def start_state(self, block: int) -> object:
        """Return the boundary state that the chosen path before a block leaves; None where any cell may follow."""
        if block == 0 or len(self.chosen) < block:
            return None
        return self.net.space.end(block - 1, self.chosen[block - 1])

    def sampler(self, block: int, state: object) -> BlockSampler:
        """Return the sampler of a block's paths after a boundary state."""
        if (block, state) not in self._samplers:
            cells: Sequence[Cell] = self.net.space.blocks[block]
            sampling = self.bootstrap.sampling or ("random" if any(cell.allowed for cell in cells) else "fair")
            self._samplers[block, state] = BlockSampler(cells, self.bootstrap.paths, sampling, state)
        return self._samplers[block, state]

    def prepare(self, batches: Batches) -> None:
        """Check the number of views of the first batch, and choose the type of the forward passes where that is left open."""
        check_views((first := next(iter(batches)))[0], self.views)
        self.precision.choose(self, [first])
        self.detector = CollapseDetector()

    def optimizer(self) -> torch.optim.Optimizer:
        """Return LARS over the blocks that train now, with their heads."""
        parts: list[nn.Module | None] = [self.net.stem if 0 in self.training_blocks else None]
        for b in self.training_blocks:
            parts += [self.net.blocks[b], self.heads[b]]
        parameters = (p for part in parts if part is not None for p in part.parameters())
        return lars(parameters, self.learning_rate, self.optimization.weight_decay)

    def rate_factor(self, progress: float, epochs: int) -> float:
        """Return the factor of a linear warm-up, then a cosine to 0 (appendix A.2)."""
        return warm_cosine(progress, epochs, self.optimization.warmup_epochs)

    def training_step(self, images: Views, labels: Tensor, rng: np.random.Generator) -> dict[str, Tensor]:
        """Run forward and backward of the blocks that train now; the reported losses are means over the paths."""
        views = [self.place(view) for view in check_views(images, self.views)]
        losses: dict[str, Tensor] = {}
        for b, state, inputs in self.inputs(views, rng):
            with self.autocast():
                by_path = self.path_losses(b, self.sampler(b, state)(rng), inputs, views, labels)
            backward(by_path.sum(), reduce=self.reduce)
            losses[f"block_{b + 1}"] = by_path.detach().mean()
        return losses

    def path_losses(self, block: int, choices: Sequence[Choice], x: Views, images: Views, labels: Tensor) -> Tensor:
        """Return the loss of each path, `[P]`.

        x: the block's input for every view. images: the views themselves.
        """
        paths, target, renormalize = self.bootstrap.paths, self.bootstrap.target, self.bootstrap.renormalize
        first = [x[p % self.pairs] for p in range(paths)]
        second = [x[self.pairs + p % self.pairs] for p in range(paths)]
        online = self.vectors(self.net, self.heads[block], block, choices, first)
        if not len(self.ema_heads):
            views = [images[p % self.pairs] for p in range(paths)]
            return supervised_losses(online, self.teacher, block, views, labels)
        self.detector.watch(online, block)
        with torch.no_grad():
            averaged = self.vectors(self.ema, self.ema_heads[block], block, choices, second)
        losses = bootstrap_losses(online, averaged, target, renormalize)
        if self.bootstrap.both_views:
            online = self.vectors(self.net, self.heads[block], block, choices, second)
            with torch.no_grad():
                averaged = self.vectors(self.ema, self.ema_heads[block], block, choices, first)
            losses = losses + bootstrap_losses(online, averaged, target, renormalize)
        return losses

    def rate(self, batches: Batches, *, calibration: Batches, **options: Any) -> Scores:
        """Rate all blocks after they were trained one after the other. options: as of `rate_block`.

        Raises:
            InputError: no path was chosen for a block before another.
        """
        blocks = range(len(self.net.space.blocks))
        tables = [self.rate_block(batches, b, calibration=calibration, **options) for b in blocks]
        return Scores(self.net.space, tables)

    def rate_block(
        self,
        batches: Batches,
        block: int,
        *,
        calibration: Batches,
        rating: PathRating | None = None,
        seed: int = 0,
        **options: Any,
    ) -> list[ScoreTable]:
        """Score every path of a block that can follow the chosen ones: a table per cell, NaN for the other paths.

        batches: yields (two views, labels), the same batches each time it is iterated. calibration: training batches that
        batch-norm statistics are re-estimated on (the released code takes one). rating: by default the distance to the
        centre of all paths (eq. 5-6). options: for `pynas.rating.rate_population`, as `progress`.
        """
        self._check_chosen(block)
        state = self.start_state(block)
        averaged = (self.ema, self.ema_heads[block]) if len(self.ema_heads) else None
        trained = TrainedBlock(
            block, self.net, self.heads[block], averaged, self.sampler(block, state), state,  # type: ignore[arg-type]
            features=lambda images: self.features(images, block),
            pooled=lambda images: pooled(self.teacher, block, self.place(images)),
            target=self.bootstrap.target, renormalize=self.bootstrap.renormalize, num_classes=self.num_classes,
        )  # fmt: skip
        return rate_block(trained, batches, calibration, rating or PathRating(), seed, **options)

    @staticmethod
    def vectors(net: Supernet, head: Any, block: int, choices: Sequence[Choice], x: Views) -> Tensor:
        """Return the head's output for each path and its view, `[P, B, D]` in float32."""
        # A view that several paths share runs through the stem once.
        entered = {id(view): net.enter(view) if block == 0 else view for view in x}
        paths = [net.run_path(block, choice, entered[id(view)]) for choice, view in zip(choices, x)]
        return head.together(paths).float()

    def after_step(self, progress: float, epochs: int) -> None:
        """Update the moving averages of the blocks that train now (eq. 2)."""
        momentum = ema_momentum(self.bootstrap.momentum, progress / epochs)
        if 0 in self.training_blocks:
            update_ema(self.ema.stem, self.net.stem, momentum)
        for b in self.training_blocks:
            update_ema(self.ema.blocks[b], self.net.blocks[b], momentum)
            if len(self.ema_heads):
                update_ema(self.ema_heads[b], self.heads[b], momentum)

    def trained_state(self) -> dict[str, Tensor]:
        """Return the state dict without the frozen teacher."""
        return unshared_state(self, "teacher.")

    def block_state(self, block: int) -> dict[str, Tensor]:
        """Return the tensors trained with a block, and their averages; the stem belongs to the first block."""
        parts = [f"net.blocks.{block}.", f"ema.blocks.{block}.", f"heads.{block}.", f"ema_heads.{block}."]
        return with_prefixes(self.trained_state(), *parts, *["net.stem.", "ema.stem."] * (block == 0))

    def inputs(self, views: Views, rng: np.random.Generator) -> Iterator[tuple[int, object, Views]]:
        """Yield (block, boundary state, the block's input for each view) for the blocks that train now."""
        if self.bootstrap.feed == "best":
            yield self.block, self.start_state(self.block), [self.features(view, self.block) for view in views]
            return
        state: object = None
        for b in self.training_blocks:
            yield b, state, views
            if b + 1 < len(self.net.space.blocks):
                drawn = self.sampler(b, state)(rng)
                choice = drawn[int(rng.integers(len(drawn)))]
                with torch.no_grad(), self.autocast():
                    entered = [self.ema.enter(view) if b == 0 else view for view in views]
                    views = [self.ema.run_path(b, choice, view) for view in entered]
                state = self.net.space.end(b, choice)

    @torch.no_grad()
    def features(self, images: Tensor, block: int) -> Tensor:
        """Return a block's input: the images for the first, else the output of the chosen paths in the averaged supernet."""
        x = self.place(images)
        if block == 0:
            return x
        with contextlib.ExitStack() as stack:
            stack.enter_context(evaluating(self.ema.stem))
            stack.enter_context(self.autocast())
            x = self.ema.enter(x)
            for b, choice in enumerate(self.chosen[:block]):
                for module in self.ema.path(b, choice):
                    stack.enter_context(evaluating(module))
                x = self.ema.run_path(b, choice, x)
        return x.float()

    @torch.no_grad()
    def fix(self, choice: Choice, calibration: Batches) -> None:
        """Choose the path of the next block without one; its batch-norm statistics are re-estimated once, here."""
        block = len(self.chosen)
        modules = [*self.ema.path(block, choice)]
        if block == 0 and self.ema.stem is not None:
            modules = [self.ema.stem, *modules]
        path = nn.Sequential(*modules)
        modes = [(part, part.training) for part in path.modules()]
        inputs = ((self.features(first_view(images), block), labels) for images, labels in calibration)
        torch.optim.swa_utils.update_bn(inputs, path.train())
        for part, mode in modes:
            part.training = mode
        self.chosen.append(choice)

    @property
    def device(self) -> torch.device:
        """Device of the method's weights."""
        return device_of(self.heads)

    def place(self, images: Tensor) -> Tensor:
        """Move images to the method's device, channels last."""
        return place(images, self.device)

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Return the context of the training's forward passes, in the type of `amp`."""
        return self.precision.autocast(self.device)
