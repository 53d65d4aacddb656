"""The supernet of `nats-size`: the widths of a layer share one slimmable module."""

from __future__ import annotations

from torch import nn

from pynas.nn.nats import SlimmableNATSCell, SlimmableNATSHead, SlimmableNATSResidual, SlimmableNATSStem
from pynas.nn.slimmable import AtWidth
from pynas.spaces import Space
from pynas.supernets.supernet import Supernet


def nats_size(space: Space, num_classes: int) -> Supernet:
    """Build the supernet; the cells of a block, one per input width, hold equal candidates.

    The network's first convolution is part of the first layer's candidates, since both have one width.
    """
    blocks = []
    for cells in space.blocks:
        layers = [_candidates(layer[0].layer, [spec.channels for spec in layer]) for layer in cells[0].layers]
        blocks.append([layers] * len(cells))
    widths = [spec.channels for spec in space.blocks[-1][0].layers[-1]]
    return Supernet(blocks, head=SlimmableNATSHead(widths, num_classes), space=space)


def _candidates(number: int, widths: list[int]) -> list[AtWidth]:
    layer: nn.Module
    if number == 0:
        layer = SlimmableNATSStem(widths)
    elif number % 2:
        layer = SlimmableNATSResidual(widths, max(widths))
    else:
        layer = SlimmableNATSCell(widths, max(widths))
    return [AtWidth(layer, width) for width in widths]
