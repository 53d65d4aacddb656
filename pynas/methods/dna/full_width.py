"""Learned 1x1 convolutions between a supernet's blocks and a teacher of other widths (DNA, eq. 6 and 7 on its own features)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pynas.nn.mbconv import MBConv


class FullWidth(nn.Module):
    """1x1 convolutions without bias: `exits[k]` from block k's output to the teacher's width, `entries[k]` back before block k.

    The first block gets the images, so `entries[0]` is empty; the last entry stands before the head. All paths of a block
    share them. Where the widths are equal they are empty too.

    theirs, ours: widths of the teacher's features and of the blocks' outputs, one per block.
    """

    def __init__(self, theirs: Sequence[int], ours: Sequence[int]):
        super().__init__()
        self.exits = nn.ModuleList(_pointwise(own, other) for own, other in zip(ours, theirs))
        self.entries = nn.ModuleList([nn.Identity(), *(_pointwise(other, own) for own, other in zip(ours, theirs))])

    def of_block(self, block: int) -> list[nn.Parameter]:
        """Parameters that train with a block."""
        return [*self.entries[block].parameters(), *self.exits[block].parameters()]

    def names(self, block: int) -> list[str]:
        """Prefixes in the state dict of what trains with a block; the entry of the head belongs to the last one."""
        last = [f"entries.{len(self.exits)}."] * (block == len(self.exits) - 1)
        return [f"exits.{block}.", f"entries.{block}.", *last]

    @torch.no_grad()
    def fold(self, model: nn.Module, kind: str) -> bool:
        """Multiply each block's exit and the next one's entry into the convolution that follows, in place.

        The network then computes what it did with both in between, by the layers that it has. Batch norm's statistics change.

        model: a network of `pynas.export.subnet`, of a space of this kind.

        Returns False, and changes nothing, where no convolution follows that could take them up.
        """
        names = [*(f"block_{block + 1}" for block in range(1, len(self.exits))), "head"]
        parts, learned = dict(model.named_children()), []
        for name, exit_, entry in zip(names, self.exits, self.entries[1:]):
            matrix = _matrix(exit_, entry)
            if matrix is not None and name in parts:
                learned.append((FOLLOWING[kind](parts[name]) if kind in FOLLOWING else None, matrix))
        if any(conv is None for conv, _ in learned):
            return False
        for conv, matrix in learned:
            assert conv is not None
            conv.weight.copy_(torch.einsum("ocyx,ci->oiyx", conv.weight, matrix))
        return True


def _pointwise(in_channels: int, out_channels: int) -> nn.Module:
    return nn.Identity() if in_channels == out_channels else nn.Conv2d(in_channels, out_channels, 1, bias=False)


def _matrix(exit_: nn.Module, entry: nn.Module) -> Tensor | None:
    """Product of an entry and an exit, `[C, C]`; None where they are empty."""
    if isinstance(exit_, nn.Conv2d) and isinstance(entry, nn.Conv2d):
        return entry.weight[:, :, 0, 0] @ exit_.weight[:, :, 0, 0]
    return None


def _first_of_mbconv(part: nn.Module) -> nn.Conv2d | None:
    """The convolution that alone reads the input of a block, or of a head, of MBConvs; None where the input goes on beside it."""
    first: Any = next((layer for layer in part.modules() if isinstance(layer, MBConv)), part)
    if not isinstance(first, MBConv):  # a head without an MBConv
        return first.conv.conv
    return None if first.residual or isinstance(first.expand, nn.Identity) else first.expand.conv  # type: ignore[union-attr, return-value]


# The convolution that a block or head begins with, by the kind of space.
FOLLOWING: dict[str, Callable[[nn.Module], nn.Conv2d | None]] = {"mbconv": _first_of_mbconv}
