"""DNA's optimizer: a learning rate for each block (section 4.3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from pynas.errors import InputError
from pynas.methods.dna.full_width import FullWidth
from pynas.supernets import Supernet

OPTIMIZERS: dict[str, Any] = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


def block_rates(rates: Sequence[float], blocks: int) -> tuple[float, ...]:
    """Return the learning rate of each block, from those of the first block and of the others, or of each.

    Raises:
        InputError: neither two rates nor one per block.
    """
    if len(rates) not in (2, blocks):
        raise InputError(
            f"[dna] expected learning_rates of the first block and the others, or of each of {blocks} blocks, got {len(rates)}"
        )
    return tuple(rates) if len(rates) == blocks else (rates[0], *[rates[1]] * (blocks - 1))


def block_optimizer(
    net: Supernet, around: FullWidth, kind: str, rates: Sequence[float], weight_decay: float | None
) -> torch.optim.Optimizer:
    """Return an optimizer of `OPTIMIZERS` with a rate per block; the stem has that of the first, the head of the last.

    around: the learned convolutions around the blocks. weight_decay: None for torch's default.
    """
    groups = [[*block.parameters(), *around.of_block(number)] for number, block in enumerate(net.blocks)]
    if net.stem is not None:
        groups[0] = [*net.stem.parameters(), *groups[0]]
    if net.head is not None:
        groups.append([*net.head.parameters(), *around.entries[-1].parameters()])
    options: dict[str, Any] = {} if weight_decay is None else {"weight_decay": weight_decay}
    return OPTIMIZERS[kind](
        [{"params": group, "lr": rate, **options} for group, rate in zip(groups, [*rates, rates[-1]])], fused=True
    )
