"""BossNAS: blocks trained by ensemble bootstrapping, paths rated by their distance to the population's centre."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pynas.errors import InputError
from pynas.methods.bossnas.block_paths import block_widths, end_state
from pynas.methods.bossnas.collapse import CollapseDetector
from pynas.methods.bossnas.heads import PathHead
from pynas.methods.bossnas.losses import TARGETS, bootstrap_losses, build_heads, check_target, supervised_losses
from pynas.methods.bossnas.rating import PathRating, rate_block
from pynas.methods.checks import check_at_least, check_one_of
from pynas.methods.ema import ema_momentum, frozen_copy, update_ema
from pynas.methods.sampling import SAMPLERS, BlockSampler
from pynas.methods.schedule import lars, warm_cosine
from pynas.methods.views import check_views, first_view, place
from pynas.rating import ScoreTable
from pynas.spaces import Cell, Choice
from pynas.supernets import Supernet, evaluating
from pynas.teachers import Teacher, as_teacher

Views = list[Tensor]
Batches = Iterable[tuple[Any, Tensor]]


class BossNAS(nn.Module):
    """Siamese supernets: every sampled path of the online one learns to predict the mean of all sampled paths of the other.

    Loss of path p of block k: mean over the batch of |S_k(W, p; x_p) - 1/P sum_q T_k(W', q; x'_q)|^2 (eq. 3-4), on
    L2-normalised vectors; (x_p, x'_p) is a pair of views of its own for each path, S ends with a projector and a
    predictor, T with the projector, W' is the moving average of W. No labels are used.

    A block trains at a time, `start(block)` says which; what it gets is the output of the best paths of the blocks
    before it in the averaged supernet, chosen with `fix`. `pynas.train.fit_blocks` does all of it. With feed="joint"
    all blocks train in every step; each is then fed by one random path of the blocks before it, drawn anew each step,
    since no path has been rated yet: cheaper in epochs, but a block's input changes as those before it learn.

    net: the supernet. paths: P, sampled per step. target: "ensemble" (eq. 3), or of table 5's ablations "naive" (each
    path its own average), "classification" (labels), "distillation" (the pooled features of `teacher` after the block).
    sampling: "fair" or "random"; None: fair unless the space forbids some paths. views: "each" path has a pair of its
    own (the paper), or "shared": one pair for all, with which augmentation costs P times less. both_views: also predict
    the first views from the second ones, and renormalize: the mean is normalised again, both as the released code does.
    momentum: of the average, rising to 1 by a cosine. hidden, dim: of projector and predictor; width: what the features
    of paths that end with different widths are brought to, by default the widest. rate: the learning rate for a batch
    of 4096, scaled by `batch_size` / 4096 (images per update; batches may be accumulated by `fit`). amp: bfloat16.

    Raises:
        InputError: options outside these, or more paths than a layer has candidates under fair sampling.
    """

    def __init__(
        self,
        net: Supernet,
        teacher: Teacher | nn.Module | str | None = None,
        *,
        taps: Sequence[str] | None = None,
        image_shape: tuple[int, int, int] | None = None,
        num_classes: int | None = None,
        paths: int = 4,
        target: str = "ensemble",
        feed: str = "best",
        sampling: str | None = None,
        views: str = "each",
        both_views: bool = False,
        renormalize: bool = False,
        momentum: float = 0.99,
        hidden: int = 4096,
        dim: int = 256,
        width: int | None = None,
        rate: float = 4.8,
        batch_size: int = 256,
        weight_decay: float = 1e-6,
        warmup_epochs: float = 1.0,
        amp: bool = False,
    ):
        super().__init__()
        check_at_least("bossnas", 1, paths=paths, hidden=hidden, dim=dim)
        check_one_of("bossnas", "target", target, TARGETS)
        check_one_of("bossnas", "feed", feed, ("best", "joint"))
        check_one_of("bossnas", "sampling", sampling, (None, *SAMPLERS))
        check_one_of("bossnas", "views", views, ("each", "shared"))
        side = net.space.image_size
        self.net, self.image_shape = net, image_shape or (3, side, side)
        self.teacher = as_teacher(teacher, taps) if target == "distillation" and teacher is not None else None
        self.num_classes = num_classes
        self.paths, self.target, self.feed, self.sampling = paths, target, feed, sampling
        self.pairs = paths if views == "each" else 1
        self.both_views, self.renormalize, self.momentum = both_views, renormalize, momentum
        self.learning_rate, self.weight_decay = rate * batch_size / 4096, weight_decay
        self.warmup_epochs, self.amp = warmup_epochs, amp
        outputs = check_target(target, num_classes, self.teacher, self.image_shape, len(net.space.blocks))
        self.heads, self.ema_heads = build_heads(block_widths(net, self.image_shape), width, hidden, dim, outputs)
        self.ema = frozen_copy(net)
        self.ema.head = None
        self.block = 0
        self.chosen: list[Choice] = []
        self.detector = CollapseDetector()
        self._samplers: dict[tuple[int, object], BlockSampler] = {}
        for b, cells in enumerate(net.space.blocks):
            for state in {cell.start for cell in cells}:
                self.sampler(b, state)

    @property
    def views(self) -> int:
        """Views of each image that a training batch holds: first the P first views, then the P second ones."""
        return 2 * self.pairs

    @property
    def training_blocks(self) -> list[int]:
        """The blocks that learn now."""
        return [self.block] if self.feed == "best" else list(range(len(self.net.space.blocks)))

    def start(self, block: int) -> None:
        """Train this block from now on.

        Raises:
            InputError: no best path was chosen for a block before it.
        """
        if self.feed == "best" and len(self.chosen) < block:
            raise InputError(f"[bossnas] expected a best path for each block before block {block + 1}, "
                             f"got {len(self.chosen)}; rate and `fix` them first")  # fmt: skip
        self.block, self.detector = block, CollapseDetector()

    def start_state(self, block: int) -> object:
        """The boundary state that the chosen path before a block left; None where every cell may follow."""
        if block == 0 or len(self.chosen) < block:
            return None
        return end_state(self.net.space, block - 1, self.chosen[block - 1])

    def sampler(self, block: int, state: object) -> BlockSampler:
        """What draws a block's paths after a boundary state."""
        if (block, state) not in self._samplers:
            cells: Sequence[Cell] = self.net.space.blocks[block]
            sampling = self.sampling or ("random" if any(cell.allowed for cell in cells) else "fair")
            self._samplers[block, state] = BlockSampler(cells, self.paths, sampling, state)
        return self._samplers[block, state]

    def prepare(self, batches: Batches) -> None:
        """Check the first batch before anything is trained."""
        for images, _ in batches:
            check_views(images, self.views)
            return

    def optimizer(self) -> torch.optim.Optimizer:
        """LARS over what learns now."""
        parts: list[nn.Module | None] = [self.net.stem if 0 in self.training_blocks else None]
        for b in self.training_blocks:
            parts += [self.net.blocks[b], self.heads[b]]
        parameters = (p for part in parts if part is not None for p in part.parameters())
        return lars(parameters, self.learning_rate, self.weight_decay)

    def rate_factor(self, progress: float, epochs: int) -> float:
        """A linear warm-up, then a cosine to 0 (appendix A.2)."""
        return warm_cosine(progress, epochs, self.warmup_epochs)

    def training_step(self, images: Views, labels: Tensor, rng: np.random.Generator) -> dict[str, Tensor]:
        """Forward and backward of the blocks that learn; the losses are means over the paths."""
        views = [self.place(view) for view in check_views(images, self.views)]
        losses: dict[str, Tensor] = {}
        for b, state, inputs in self.inputs(views, rng):
            with self.autocast():
                found = self.path_losses(b, self.sampler(b, state)(rng), inputs, views, labels)
            found.sum().backward()
            losses[f"block_{b + 1}"] = found.detach().mean()
        return losses

    def path_losses(self, block: int, choices: Sequence[Choice], x: Views, images: Views, labels: Tensor) -> Tensor:
        """The loss of each path `[P]`. x: what the block gets of every view, `images` the views themselves."""
        first = [x[p % self.pairs] for p in range(self.paths)]
        second = [x[self.pairs + p % self.pairs] for p in range(self.paths)]
        online = self.vectors(self.net, self.heads[block], block, choices, first)
        if not len(self.ema_heads):
            seen = [images[p % self.pairs] for p in range(self.paths)]
            return supervised_losses(online, self.teacher, block, seen, labels)
        self.detector.watch(online, block)
        with torch.no_grad():
            target = self.vectors(self.ema, self.ema_heads[block], block, choices, second)
        losses = bootstrap_losses(online, target, self.target, self.renormalize)
        if self.both_views:
            online = self.vectors(self.net, self.heads[block], block, choices, second)
            with torch.no_grad():
                target = self.vectors(self.ema, self.ema_heads[block], block, choices, first)
            losses = losses + bootstrap_losses(online, target, self.target, self.renormalize)
        return losses

    def rate(self, batches: Batches, *, calibration: Batches, **options: Any) -> list[list[ScoreTable]]:
        """Rate the blocks that have been trained one after the other: `tables[b][cell]`, see `rate_block`.

        Raises:
            InputError: a block whose predecessors have no chosen path.
        """
        blocks = range(len(self.net.space.blocks))
        return [self.rate_block(batches, b, calibration=calibration, **options) for b in blocks]

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
        """Score every path of a block that can follow the chosen ones: a table per cell, NaN for the others.

        batches: yields (two views, labels), the same each time. calibration: training batches to re-estimate batch-norm
        statistics on (the released code takes one). rating: `PathRating`, by default the distance to the centre of all
        paths (eq. 5-6). options: for `pynas.rating.rate_population`, as `progress`.
        """
        if len(self.chosen) < block:
            raise InputError(f"[bossnas] expected a best path for each block before block {block + 1}, "
                             f"got {len(self.chosen)}")  # fmt: skip
        return rate_block(self, batches, block, calibration, rating or PathRating(), seed, **options)

    @staticmethod
    def vectors(net: Supernet, head: nn.Module, block: int, choices: Sequence[Choice], x: Views) -> Tensor:
        """What each path makes of its view, `[P, B, D]` in float32."""
        # A view that several paths share enters once.
        entered = {id(view): net.enter(view) if block == 0 else view for view in x}
        outputs = [head(net.run_path(block, choice, entered[id(view)])) for choice, view in zip(choices, x)]
        return torch.stack([output.float() for output in outputs])

    def after_step(self, progress: float, epochs: int) -> None:
        """Move the averages of what has learned (eq. 2)."""
        momentum = ema_momentum(self.momentum, progress / epochs)
        if 0 in self.training_blocks:
            update_ema(self.ema.stem, self.net.stem, momentum)
        for b in self.training_blocks:
            update_ema(self.ema.blocks[b], self.net.blocks[b], momentum)
            if len(self.ema_heads):
                update_ema(self.ema_heads[b], self.heads[b], momentum)

    def inputs(self, views: Views, rng: np.random.Generator) -> Iterator[tuple[int, object, Views]]:
        """(block, boundary state, what it gets of each view) for the blocks that learn."""
        if self.feed == "best":
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
                state = end_state(self.net.space, b, choice)

    @torch.no_grad()
    def features(self, images: Tensor, block: int) -> Tensor:
        """What a block gets: the images for the first, else the chosen paths' output in the averaged supernet."""
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
        """Choose the path of the next block that has none; its batch-norm statistics are re-estimated, and then stay."""
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

    def head(self, block: int) -> PathHead:
        """A block's head in the online supernet."""
        return self.heads[block]  # type: ignore[return-value]

    @property
    def device(self) -> torch.device:
        """Where the method's weights are."""
        return next(self.heads.parameters()).device

    def place(self, images: Tensor) -> Tensor:
        """Images on the method's device, channels last."""
        return place(self.heads, images)

    def autocast(self) -> torch.autocast:
        """bfloat16 where `amp` asks for it."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.amp)
