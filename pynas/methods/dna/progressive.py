"""Progressive DNA: blocks trained and searched one after the other, the strategies DNA is compared with (table 10)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from pynas.checked import AtLeastOne, checked
from pynas.errors import InputError
from pynas.methods.blocks import Batches
from pynas.methods.dna.dna import DNA
from pynas.methods.dna.projection import check_one_shape
from pynas.rating import Scores, ScoreTable, rate
from pynas.spaces import Architecture, Choice
from pynas.supernets import Supernet
from pynas.train.method import Method

Prefix = tuple[Choice, ...]


class ProgressiveDNA(nn.Module, Method):
    """DNA whose blocks train one after the other, each on outputs of the student's own blocks before it.

    Block 1 trains and is searched for the m best paths. Block 2 then trains on their outputs, and blocks 1 and 2 are
    searched for the m best paths through both; and so on (section 4.6). In every step a block gets the output of one kept
    path of the blocks before it, drawn anew, and learns from its own loss alone: mean (Y_k - U_k(X_k))^2 (eq. 5; no
    gradient goes to the blocks before it). The epochs are divided equally among the blocks. A path's score is the sum of
    eq. 7 over its blocks, each weighted by its lambda_k.

    dna: holds the supernet, the teacher and the options of the training.
    strategy: "progressive-a": when block i trains, blocks 1..i all train from scratch, those before i along the kept
        paths. "progressive-b": only block i trains; the blocks before it and the stem are frozen (batch statistics).
    keep: m, the number of kept paths. rating_batches: batches that a block is rated on before the next block begins.

    The state dict includes `stage`, the number of the block that trains now, and `kept`, the kept paths.

    Raises:
        InputError: an option out of its range, or a space whose blocks end in several shapes.
    """

    stage: Tensor
    kept: Tensor

    @checked("dna", skip=("rating_batches",))
    def __init__(
        self,
        dna: DNA,
        *,
        strategy: Literal["progressive-a", "progressive-b"],
        keep: AtLeastOne = 5,
        rating_batches: Batches,
    ):
        super().__init__()
        check_one_shape(dna.net, "dna")
        if dna.logits_after < 1:
            raise InputError(f"[dna] expected logits_after=1 for progressive trainings, got {dna.logits_after}")
        if list(dna.full_width.parameters()):
            raise InputError("[dna] expected width='projection' for progressive trainings, got 'teacher'")
        space = dna.net.space
        self.dna, self.from_scratch, self.rating_batches = dna, strategy == "progressive-a", rating_batches
        self.blocks, self.keep = len(space), keep
        longest = max(len(cell.layers) for cells in space.blocks for cell in cells)
        self.register_buffer("stage", torch.zeros((), dtype=torch.int64))
        # [m, block, 1 + layers]: the cell, then the path; unused entries are -1.
        self.register_buffer("kept", torch.full((keep, len(space), 1 + longest), -1))

    @property
    def net(self) -> Supernet:  # type: ignore[override]
        """The supernet."""
        return self.dna.net

    @property
    def reduce(self) -> Callable[[Tensor], None] | None:  # type: ignore[override]
        """The one of DNA, whose blocks train."""
        return self.dna.reduce

    @reduce.setter
    def reduce(self, value: Callable[[Tensor], None] | None) -> None:
        self.dna.reduce = value

    def prepare(self, batches: Batches) -> None:
        """Fit the projections on the first training batches."""
        self.dna.prepare(batches)

    def optimizer(self) -> torch.optim.Optimizer:
        """Return the optimizer of DNA."""
        optimizer = self.dna.optimizer()
        self.scaler = self.dna.scaler
        return optimizer

    def rate_factor(self, progress: float, epochs: int) -> float:
        """Return DNA's factor, counted from the beginning of the current block's training."""
        return self.dna.rate_factor(progress - self.stage_at(progress, epochs) * epochs / self.blocks, epochs)

    def stage_at(self, progress: float, epochs: int) -> int:
        """Return the block, counted from 0, that trains after `progress` of `epochs` epochs."""
        return min(self.blocks - 1, int(progress * self.blocks / epochs + 1e-9))

    def trained_state(self) -> dict[str, Tensor]:
        """Return the state dict without the frozen teacher."""
        state = {f"dna.{name}": value for name, value in self.dna.trained_state().items()}
        return {"stage": self.stage, "kept": self.kept, **state}

    def prefixes(self, block: int) -> list[Prefix]:
        """Return the kept paths through the blocks before `block`, best first; one empty path for the first block."""
        rows = [row for row in self.kept.tolist() if block == 0 or row[block - 1][0] >= 0]
        kept = [tuple(Choice(c, tuple(i for i in path if i >= 0)) for c, *path in row[:block]) for row in rows]
        return list(dict.fromkeys(kept)) if block else [()]

    def training_step(self, images: Tensor, labels: Tensor, rng: np.random.Generator) -> dict[str, Tensor]:
        """Train the current block on one batch, in strategy A also the blocks before it; always the head."""
        images = self.dna.place(images)
        features, logits = self.dna.targets(images, training=True)
        losses = self._train_blocks(images, features, rng)
        return losses | self.dna.train_head(features[-1], logits, labels, rng)

    def _train_blocks(self, images: Tensor, features: Sequence[Tensor], rng: np.random.Generator) -> dict[str, Tensor]:
        dna, last = self.dna, int(self.stage)
        prefixes = self.prefixes(last)
        prefix, losses, x = prefixes[int(rng.integers(len(prefixes)))], {}, images
        for b, choice in enumerate(prefix):
            with dna.autocast(), torch.set_grad_enabled(self.from_scratch):
                output = dna.net.run_path(b, choice, dna.net.enter(x) if b == 0 else x)
                loss = functional.mse_loss(output.float(), features[b].float())
            if self.from_scratch:
                dna.backward(loss * dna.loss_weights[b], dna.reduce)
                losses[f"block_{b + 1}"] = loss.detach()
            x = output.detach()
        losses[f"block_{last + 1}"] = dna.train_block(last, x, features[last], rng)
        return losses

    def before_step(self, progress: float, epochs: int, optimizer: torch.optim.Optimizer) -> None:
        """Where a block's epochs are over: search the blocks so far, keep the m best paths, and begin the next block."""
        while int(self.stage) < self.stage_at(progress, epochs):
            for row, (path, _) in zip(self.kept, self._ranked(self.rating_batches)):
                for b, choice in enumerate(path):
                    values = torch.tensor([choice.cell, *choice.path])
                    row[b, : len(values)] = values
                    row[b, len(values) :] = -1
            self.stage += 1
            if self.from_scratch:
                optimizer.state.clear()
                for part in (self.net.stem, *self.net.blocks[: int(self.stage) + 1]):
                    if part is not None:
                        part.apply(_reset)

    def _ranked(self, batches: Batches) -> list[tuple[Prefix, float]]:
        """The m best paths through the blocks up to the current one, with their scores."""
        block, ranked = int(self.stage), []
        for prefix in self.prefixes(block):
            score = sum(self._scores(batches, prefix[:b], choice)[0][1] for b, choice in enumerate(prefix))
            ranked += [((*prefix, choice), score + more) for choice, more in self._scores(batches, prefix)]
        return sorted(ranked, key=lambda entry: entry[1])[: self.keep]

    def _scores(self, batches: Batches, prefix: Prefix, only: Choice | None = None) -> list[tuple[Choice, float]]:
        """Weighted eq. 7 of every path (or only one) of the block after `prefix`."""
        block, scores = len(prefix), []
        inputs = self.dna.block_batches(batches, block, prefix=prefix)
        for c in range(len(self.net.space.blocks[block])) if only is None else [only.cell]:
            paths = None if only is None else [only.path]
            table = rate(self.net.layers(block, c), inputs, loss="relative_l1", norm="batch", paths=paths)
            values = [score * self.dna.loss_weights[block] for score in table.rated()[1].tolist()]
            scores += [(Choice(c, tuple(map(int, path))), value) for path, value in zip(table.rated()[0], values)]
        return scores

    def kept_architectures(self, batches: Batches) -> list[tuple[Architecture, float]]:
        """Return the m best architectures after the last block's training, with their scores, best first (table 10).

        Raises:
            InputError: the training has not come to the last block.
        """
        if int(self.stage) != self.blocks - 1:
            raise InputError(f"[dna] expected all {self.blocks} blocks trained, got to block {int(self.stage) + 1}; "
                             "train to the end first")  # fmt: skip
        return [(Architecture(path), score) for path, score in self._ranked(batches)]

    def rate(self, batches: Batches, **options: Any) -> Scores:
        """Rate every path of every block. options: as of `rate_block`."""
        return Scores(self.net.space, [self.rate_block(batches, b, **options) for b in range(self.blocks)])

    def default_loss(self) -> str:
        """Return "relative_l1" (eq. 7), by which the blocks before were searched too."""
        return "relative_l1"

    def rate_block(self, batches: Batches, block: int, **options: Any) -> list[ScoreTable]:
        """Rate every path of a block, on the output of the best kept path before it. options: of `DNA.rate_block`."""
        if block > int(self.stage):
            raise InputError(
                f"[dna] expected a block up to {int(self.stage) + 1}, which the training has come to, got {block + 1}"
            )
        return self.dna.rate_block(batches, block, prefix=self.prefixes(block)[0], **options)


def _reset(module: nn.Module) -> None:
    if hasattr(module, "reset_parameters"):
        module.reset_parameters()  # type: ignore[operator]
