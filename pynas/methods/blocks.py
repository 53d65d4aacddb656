"""Rating of one block: its inputs and targets batch by batch, and a score table for each of its cells."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pynas.rating import ScoreTable, rate
from pynas.supernets import Supernet

# (images, labels) of each batch; images are a tensor `[B, 3, H, W]` or a list of views.
Batches = Iterable[tuple[Any, Tensor]]
Pair = tuple[Tensor, Tensor]


class BlockBatches:
    """(input, target) of a block for every batch, computed anew each time it is iterated.

    pair: called with the images and labels of a batch, without gradients; returns None to leave the batch out.
    """

    def __init__(self, batches: Batches, pair: Callable[[Any, Tensor], Pair | None]) -> None:
        self.batches, self.pair = batches, pair

    def __len__(self) -> int:
        return len(self.batches)  # type: ignore[arg-type]

    @torch.no_grad()
    def __iter__(self) -> Iterator[Pair]:
        for images, labels in self.batches:
            pair = self.pair(images, labels)
            if pair is not None:
                yield pair


def rate_cells(
    net: Supernet,
    block: int,
    batches: Sequence[BlockBatches],
    *,
    resume: str | Path | None = None,
    **options: Any,
) -> list[ScoreTable]:
    """Rate every path of every cell of a block; returns a table per cell.

    batches: of each cell. resume: the partial rating of cell c is kept in `<resume>.cell_<c>` until the cell is done.
    options: for `pynas.rate`.
    """
    tables = []
    for c, pairs in enumerate(batches):
        partial = None if resume is None else f"{resume}.cell_{c}"
        tables.append(rate(net.layers(block, c), pairs, resume=partial, **options))
    return tables
