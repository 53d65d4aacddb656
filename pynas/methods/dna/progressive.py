"""Blocks trained and searched one after the other: the two progressive strategies that DNA is compared with (table 10)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from pynas.errors import InputError
from pynas.methods.dna.block_batches import Batches, BlockBatches
from pynas.rating import rate
from pynas.spaces import Architecture, Choice, Space

if TYPE_CHECKING:
    from pynas.methods.dna.dna import DNA

STRATEGIES = ("progressive-a", "progressive-b")

Prefix = tuple[Choice, ...]


class Progressive(nn.Module):
    """Which block trains now, and the m best paths of the blocks before it; both are part of the state dict.

    Block 1 trains and is searched for m paths; with these m, block 2 trains, and blocks 1 and 2 are searched for m paths
    of both; and so on (section 4.6). A block gets what a kept path of the blocks before it puts out, drawn anew in every
    step, and learns from its own loss alone: mean (Y_k - U_k(X_k))^2 (eq. 5; no gradient goes to the blocks before it).

    "progressive-a": when block i trains, blocks 1..i all train from scratch, those before i along the kept paths.
    "progressive-b": only block i trains; the blocks before it, and the stem, are frozen (in batch statistics).

    The epochs are shared out equally. A path's score is the sum of eq. 7 over its blocks, each weighted by its lambda_k.
    """

    stage: Tensor
    kept: Tensor

    def __init__(self, space: Space, strategy: str, keep: int):
        super().__init__()
        if keep < 1:
            raise InputError(f"[dna] expected keep of at least 1, got {keep}")
        self.from_scratch = strategy == "progressive-a"
        self.blocks, self.keep = len(space), keep
        longest = max(len(cell.layers) for cells in space.blocks for cell in cells)
        self.register_buffer("stage", torch.zeros((), dtype=torch.int64))
        # [m, block, 1 + layers]: cell, then path; -1 beyond what is there.
        self.register_buffer("kept", torch.full((keep, len(space), 1 + longest), -1))

    def stage_at(self, progress: float, epochs: int) -> int:
        """The block, from 0, that trains `progress` epochs into `epochs`."""
        return min(self.blocks - 1, int(progress * self.blocks / epochs + 1e-9))

    def prefixes(self, block: int) -> list[Prefix]:
        """The kept paths of the blocks before `block`, best first; one empty path for the first block."""
        rows = [row for row in self.kept.tolist() if block == 0 or row[block - 1][0] >= 0]
        found = [tuple(Choice(c, tuple(i for i in path if i >= 0)) for c, *path in row[:block]) for row in rows]
        return list(dict.fromkeys(found)) if block else [()]

    def training_step(
        self, method: DNA, images: Tensor, features: Sequence[Tensor], rng: np.random.Generator
    ) -> dict[str, Tensor]:
        """One step of the block whose turn it is, and in strategy A of the blocks before it."""
        last = int(self.stage)
        prefixes = self.prefixes(last)
        prefix, losses, x = prefixes[int(rng.integers(len(prefixes)))], {}, images
        for b, choice in enumerate(prefix):
            with method.autocast(), torch.set_grad_enabled(self.from_scratch):
                output = method.net.run_path(b, choice, method.net.enter(x) if b == 0 else x)
                loss = functional.mse_loss(output.float(), features[b].float())
            if self.from_scratch:
                method.backward(loss * method.loss_weights[b])
                losses[f"block_{b + 1}"] = loss.detach()
            x = output.detach()
        losses[f"block_{last + 1}"] = method.train_block(last, x, features[last], rng)
        return losses

    def advance(self, method: DNA, stage: int, optimizer: torch.optim.Optimizer) -> None:
        """Search the blocks up to the one that is done, then begin the next one, until `stage` is reached."""
        while int(self.stage) < stage:
            if method.rating_batches is None:
                raise InputError("[dna] expected rating_batches for a progressive strategy, got none")
            for row, (path, _) in zip(self.kept, self.ranked(method, method.rating_batches)):
                for b, choice in enumerate(path):
                    values = torch.tensor([choice.cell, *choice.path])
                    row[b, : len(values)] = values
                    row[b, len(values) :] = -1
            self.stage += 1
            if self.from_scratch:
                optimizer.state.clear()
                for part in (method.net.stem, *method.net.blocks[: int(self.stage) + 1]):
                    if part is not None:
                        part.apply(_reset)

    def ranked(self, method: DNA, batches: Batches) -> list[tuple[Prefix, float]]:
        """The m best paths of the blocks up to the one whose turn it is, with their scores."""
        block, found = int(self.stage), []
        for prefix in self.prefixes(block):
            score = sum(self.scores(method, batches, prefix[:b], choice)[0][1] for b, choice in enumerate(prefix))
            found += [((*prefix, choice), score + more) for choice, more in self.scores(method, batches, prefix)]
        return sorted(found, key=lambda entry: entry[1])[: self.keep]

    def scores(
        self, method: DNA, batches: Batches, prefix: Prefix, only: Choice | None = None
    ) -> list[tuple[Choice, float]]:
        """Weighted eq. 7 of every path (or only one) of the block after `prefix`."""
        block, found = len(prefix), []
        inputs = BlockBatches(method, batches, block, "relative_l1", prefix)
        for c in range(len(method.net.space.blocks[block])) if only is None else [only.cell]:
            paths = None if only is None else [only.path]
            table = rate(method.net.layers(block, c), inputs, loss="relative_l1", norm="batch", paths=paths)
            values = [score * method.loss_weights[block] for score in table.rated()[1].tolist()]
            found += [(Choice(c, tuple(map(int, path))), v) for path, v in zip(table.rated()[0], values)]
        return found

    def search(self, method: DNA, batches: Batches) -> list[tuple[Architecture, float]]:
        """The m best architectures after the last block's training, best first.

        Raises:
            InputError: a training that has not come to the last block.
        """
        if int(self.stage) != self.blocks - 1:
            raise InputError(f"[dna] expected all {self.blocks} blocks trained, got to block {int(self.stage) + 1}")
        return [(Architecture(path), score) for path, score in self.ranked(method, batches)]


def _reset(module: nn.Module) -> None:
    if hasattr(module, "reset_parameters"):
        module.reset_parameters()  # type: ignore[operator]
